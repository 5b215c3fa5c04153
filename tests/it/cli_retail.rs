//! Eight days of a real shop's orders through the command line.

use std::path::PathBuf;

use serde_json::Value;
use tests::{Options, Service, Stack};

use crate::cli_fixture::{Weft, balance, online_retail};

/// Totals of all eight files according to the data set's description; the money in pence.
const INVOICES: i64 = 789;
const LINES: i64 = 16_022;
const NET: i64 = 36_602_495;

const OUTCOMES: [&str; 7] = [
    "new",
    "unchanged",
    "refunded",
    "refundedBefore",
    "refused",
    "unmatched",
    "undecided",
];

#[tokio::test(flavor = "multi_thread")]
async fn eight_days_are_accounted_for_to_the_penny_and_a_second_import_changes_nothing() {
    let Some(files) = online_retail() else {
        eprintln!("skipped: ../shared/data/online-retail is not here");
        return;
    };
    // A card must not be declined because the machine is busy.
    let options = Options::default().set(Service::Payment, "processor.timeout_ms", "20000");
    let stack = Stack::with(options).await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let first = import(&weft, &files).await;
    assert_eq!(
        sum(&first, |report| count(&report["read"]["documents"])),
        INVOICES
    );
    assert_eq!(sum(&first, |report| count(&report["read"]["lines"])), LINES);
    assert_eq!(sum(&first, |report| pence(&report["read"]["money"])), NET);
    for report in &first {
        let lines: i64 = OUTCOMES
            .iter()
            .map(|outcome| count(&report[outcome]["lines"]))
            .sum();
        assert_eq!(lines, count(&report["read"]["lines"]), "{report:#}");
        assert_eq!(
            (&report["balanced"], &report["unchanged"]["lines"]),
            (&true.into(), &0.into())
        );
    }
    let counts = counts(&stack).await;
    assert_eq!(
        counts[0],
        sum(&first, |report| count(&report["new"]["entries"])),
        "an order for each invoice taken"
    );
    assert_eq!(
        counts[1],
        sum(&first, |report| count(&report["refunded"]["entries"])),
        "a refund for each match"
    );

    let second = import(&weft, &files).await;
    for (before, now) in first.iter().zip(&second) {
        let changed = [
            &now["new"]["lines"],
            &now["refunded"]["lines"],
            &now["undecided"]["lines"],
        ];
        assert_eq!(changed, [&Value::from(0); 3], "{now:#}");
        for (now_is, was) in [("unchanged", "new"), ("refundedBefore", "refunded")] {
            assert_eq!(now[now_is], before[was]);
        }
        assert_eq!(
            (&now["refused"], &now["unmatched"]),
            (&before["refused"], &before["unmatched"])
        );
        assert_eq!(
            (&now["equation"], &now["balanced"]),
            (&before["equation"], &true.into())
        );
    }
    assert_eq!(self::counts(&stack).await, counts);

    let ledger = weft.json(&["ledger", "balance"]).await;
    let kept = sum(&first, |report| {
        pence(&report["new"]["money"]) + pence(&report["refunded"]["money"])
    });
    assert_eq!(ledger["balanced"], true);
    assert_eq!(
        [balance(&ledger, "CASH"), balance(&ledger, "PATIENT_RECEIVABLE")],
        [kept, 0]
    );
}

async fn import(weft: &Weft<'_>, files: &[PathBuf]) -> Vec<Value> {
    let mut reports = Vec::new();
    for file in files {
        reports.push(weft.json(&["order", "import", &file.display().to_string()]).await);
    }
    reports
}

/// Number of orders, refunds, payments and ledger transactions in the databases.
async fn counts(stack: &Stack) -> [i64; 4] {
    let (order, payment) = (stack.database(Service::Order), stack.database(Service::Payment));
    [
        order.count("select count(*) from orders.placed_order").await,
        order.count("select count(*) from orders.order_refund").await,
        payment.count("select count(*) from payment.payment").await,
        payment
            .count("select coalesce(sum(captured - refunded), 0)::bigint from payment.payment")
            .await,
    ]
}

fn sum(reports: &[Value], figure: impl Fn(&Value) -> i64) -> i64 {
    reports.iter().map(figure).sum()
}

fn count(value: &Value) -> i64 {
    value.as_i64().expect("a count")
}

/// `-12.50` in pence.
fn pence(value: &Value) -> i64 {
    value
        .as_str()
        .expect("an amount")
        .replace('.', "")
        .parse()
        .expect("a decimal")
}

#[tokio::test(flavor = "multi_thread")]
async fn invoices_of_a_declined_card_are_imported_with_another_card() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let file = stack.folder().join("invoices.csv");
    let heading = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country";
    let text = format!(
        "{heading}\n1,A,a,1,2011-01-04 10:00:00,1.00,7.0,UK\n2,B,b,2,2011-01-04 10:00:00,2.00,7.0,UK\n"
    );
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let import = async |card: &str| {
        weft.json(&["order", "import", &file, "--payment-method", card])
            .await
    };

    for _ in 0..2 {
        assert_eq!(count(&import("tok_decline").await["refused"]["lines"]), 2);
    }
    assert_eq!(
        stack
            .database(Service::Order)
            .count("select count(*) from orders.placed_order")
            .await,
        2
    );
    assert_eq!(count(&import("tok_visa").await["new"]["lines"]), 2);
    assert_eq!(count(&import("tok_visa").await["unchanged"]["lines"]), 2);
    assert_eq!(
        stack
            .database(Service::Order)
            .count("select count(*) from orders.placed_order")
            .await,
        4
    );
}

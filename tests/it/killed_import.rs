//! Every server is killed once during an import, and nothing is lost, duplicated or charged twice.

use std::{fmt::Write as _, fs, path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use tests::{Database, Durability, Options, Service, Stack, eventually, program};
use tokio::process::{Child, Command};

/// Each is one line at 1.23, 2.46 or 3.69 pounds.
const ORDERS: i64 = 2_000;
const PLACED: &str = "select count(*) from orders.placed_order";

#[tokio::test(flavor = "multi_thread")]
async fn an_import_survives_a_kill_of_every_server() {
    // A card must be declined only because of the kills, not because the machine is busy.
    let options = Options::default().own_postgres(Durability::Durable);
    let stack = Stack::with(options.set(Service::Payment, "processor.timeout_ms", "20000")).await;
    let file = orders_file(&stack);
    let import = import(&stack, &file).await;

    for (after, victim) in [
        (150, Victim::Service(Service::Order)),
        (450, Victim::Service(Service::Payment)),
        (750, Victim::Service(Service::Claims)),
        (1_000, Victim::Nats),
        (1_300, Victim::Postgres),
        (1_600, Victim::Service(Service::Order)),
    ] {
        placed(&stack, after).await;
        victim.kill_and_bring_back(&stack).await;
    }

    let report = finished(import).await;
    assert_eq!(report["balanced"], true, "{report:#}");
    all_settled(stack.database(Service::Order)).await;
    assert_no_double_charge(&stack).await;
    assert_ledger_agrees(&stack).await;
}

#[derive(Clone, Copy)]
enum Victim {
    Service(Service),
    Nats,
    Postgres,
}

impl Victim {
    async fn kill_and_bring_back(self, stack: &Stack) {
        match self {
            Victim::Service(service) => {
                stack.kill9(service);
                stack.restart(service).await;
            }
            Victim::Nats => {
                stack.nats().kill9();
                stack.nats().restart().await;
            }
            Victim::Postgres => {
                stack.postgres().kill9();
                stack.postgres().restart().await;
            }
        }
    }
}

fn orders_file(stack: &Stack) -> PathBuf {
    let mut csv =
        String::from("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n");
    for number in 0..ORDERS {
        let quantity = 1 + number % 3;
        writeln!(
            csv,
            "{},85123A,LANTERN,{quantity},2011-01-04 10:00:00,1.23,{}.0,United Kingdom",
            600_000 + number,
            17_000 + number % 50
        )
        .expect("a string takes any text");
    }
    let file = stack.folder().join("orders.csv");
    fs::write(&file, csv).expect("the folder is the test's own");
    file
}

async fn import(stack: &Stack, file: &std::path::Path) -> Child {
    Command::new(program("weft").await)
        .args(["order", "import", "--output", "json"])
        .arg(file)
        .env(
            "WEFT_ORDER_URL",
            format!("http://{}", stack.address(Service::Order)),
        )
        .env(
            "WEFT_PAYMENT_URL",
            format!("http://{}", stack.address(Service::Payment)),
        )
        .env(
            "WEFT_CLAIMS_URL",
            format!("http://{}", stack.address(Service::Claims)),
        )
        .env("WEFT_TOKEN", stack.token("shop", &["admin"]).as_str())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("weft is built")
}

async fn finished(import: Child) -> Value {
    let output = tokio::time::timeout(Duration::from_secs(240), import.wait_with_output()).await;
    let output = output.expect("the import ends").expect("it was started");
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn placed(stack: &Stack, at_least: i64) {
    let order = stack.database(Service::Order);
    eventually(Duration::from_secs(120), || async {
        order.count(PLACED).await >= at_least
    })
    .await;
}

/// The sagas resume what the last kill interrupted, shortly after the import has ended. An authorization in flight
/// when the card network went down with PostgreSQL may end as a time-out without a charge: only then is its order
/// rejected, and the import has placed it again.
async fn all_settled(order: &Database) {
    let open = "select count(*) from orders.placed_order where state not in ('settled', 'rejected')";
    eventually(Duration::from_secs(60), || async {
        match order.count(open).await {
            0 => Ok(()),
            open => Err(format!("{open} orders are open")),
        }
    })
    .await;
    let settled = "select count(distinct reference) from orders.placed_order where state = 'settled'";
    assert_eq!(order.count(settled).await, ORDERS);
    assert_eq!(
        order
            .count("select count(*) from orders.placed_order where state = 'settled'")
            .await,
        ORDERS
    );
    let others = "select count(*) from orders.placed_order where state = 'rejected' \
                  and failure->>'reason' is distinct from 'PROCESSOR_TIMEOUT'";
    assert_eq!(order.count(others).await, 0);
}

/// Checks the card network's own records, which the payment service reaches only by calls.
async fn assert_no_double_charge(stack: &Stack) {
    let payment = stack.database(Service::Payment);
    for charged in ["charges = 1 and holds = 1", "charges > 0 or holds > 0"] {
        let query = format!("select count(*) from sandbox.card_statement where {charged}");
        assert_eq!(payment.count(&query).await, ORDERS, "{charged}");
    }
    let charged = payment
        .count("select sum(charged)::bigint from sandbox.card_statement")
        .await;
    assert_eq!(
        payment
            .count("select sum(captured)::bigint from payment.payment")
            .await,
        charged
    );
    assert_eq!(charged, price(stack).await);
}

/// The total price of the settled orders.
async fn price(stack: &Stack) -> i64 {
    let price = "select sum(gross)::bigint from orders.placed_order where state = 'settled'";
    stack.database(Service::Order).count(price).await
}

/// Revenue is booked by events, so it appears a little later.
async fn assert_ledger_agrees(stack: &Stack) {
    let payment = stack.database(Service::Payment);
    let price = price(stack).await;
    let revenue =
        "select coalesce(-sum(amount), 0)::bigint from payment.ledger_entry where account = 'REVENUE'";
    eventually(Duration::from_secs(60), || async {
        payment.count(revenue).await == price
    })
    .await;
    for account in [
        "'PATIENT_RECEIVABLE'",
        "any(array(select distinct account from payment.ledger_entry))",
    ] {
        let sum = format!(
            "select coalesce(sum(amount), 0)::bigint from payment.ledger_entry where account = {account}"
        );
        assert_eq!(payment.count(&sum).await, 0, "{account}");
    }
}

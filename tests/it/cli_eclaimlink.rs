//! The five eClaimLink files, imported one after the other by the command line: the amount paid agrees between the
//! order, the claim and the ledger after each file.

use std::time::Duration;

use serde_json::Value;
use tests::{Stack, eventually};

use crate::cli_fixture::{Weft, balance, errors, example, minor};

/// Amount paid by the payer after each file, in fils, and the order's state.
const FILES: [(&str, &str, i64, &str); 5] = [
    ("order", "01_submission.xml", 0, "ORDER_STATE_FULFILLED"),
    (
        "remittance",
        "02_remittance_partial.xml",
        24_000,
        "ORDER_STATE_FULFILLED",
    ),
    ("order", "03_resubmission.xml", 24_000, "ORDER_STATE_FULFILLED"),
    (
        "remittance",
        "04_remittance_after_resub.xml",
        34_000,
        "ORDER_STATE_SETTLED",
    ),
    (
        "remittance",
        "05_remittance_takeback.xml",
        19_000,
        "ORDER_STATE_SETTLED",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn order_claim_and_ledger_agree_after_each_of_the_five_files() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    for (noun, file, paid, state) in FILES {
        weft.json(&[noun, "import", &example(file)]).await;
        eventually(Duration::from_secs(30), || agreed(&weft, paid, state)).await;
    }
    let before = whole(&weft).await;
    for (noun, file, ..) in FILES {
        let report = weft.json(&[noun, "import", &example(file)]).await;
        match noun {
            "order" => assert_eq!(
                (&report["unchanged"]["lines"], &report["new"]["lines"]),
                (&1.into(), &0.into())
            ),
            _ => assert_eq!(report["report"]["duplicate"], true),
        }
    }
    assert_eq!(whole(&weft).await, before, "a second import changed something");
}

async fn agreed(weft: &Weft<'_>, paid: i64, state: &str) -> Result<(), String> {
    let claim = &weft.json(&["claim", "get", "TEST-FAC-1/CLM-0001"]).await["claim"];
    let order = &weft.json(&["order", "get", "TEST-FAC-1/CLM-0001"]).await["order"];
    let ledger = weft.json(&["ledger", "balance"]).await;
    let paid_by = [
        minor(&claim["netPaid"]),
        minor(&order["payerPaid"]),
        balance(&ledger, "PAYER_CASH"),
    ];
    let open = minor(&order["payerNet"]) - paid - minor(&order["writtenOff"]) - minor(&order["transferred"]);
    let agreed =
        paid_by == [paid; 3] && order["state"] == state && balance(&ledger, "PAYER_RECEIVABLE") == open;
    let cash = [balance(&ledger, "CASH"), -balance(&ledger, "REVENUE")];
    if agreed && cash == [10_000, 50_000] && ledger["balanced"] == true {
        Ok(())
    } else {
        Err(format!(
            "claim, order, ledger: {paid_by:?}, order {}, {ledger:#}",
            order["state"]
        ))
    }
}

async fn whole(weft: &Weft<'_>) -> [Value; 3] {
    [
        weft.json(&["claim", "get", "TEST-FAC-1/CLM-0001"]).await,
        weft.json(&["order", "list"]).await,
        weft.json(&["ledger", "entries", "--limit", "1000"]).await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_card_was_declined_is_imported_with_another_card() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    let file = example("01_submission.xml");
    let import = async |card| {
        let report = weft
            .json(&["order", "import", &file, "--payment-method", card])
            .await;
        ["new", "unchanged", "refused"].map(|key| report[key]["entries"].as_u64().unwrap())
    };
    assert_eq!(import("tok_decline").await, [0, 0, 1]);
    assert_eq!(import("tok_decline").await, [0, 0, 1]);
    let withdrawn = &weft.json(&["claim", "get", "TEST-FAC-1/CLM-0001"]).await["claim"];
    assert_eq!(withdrawn["state"], "CLAIM_STATE_WITHDRAWN");

    assert_eq!(import("tok_visa").await, [1, 0, 0]);
    assert_eq!(import("tok_visa").await, [0, 1, 0]);
    let claim = &weft.json(&["claim", "get", "TEST-FAC-1/CLM-0001"]).await["claim"];
    assert_eq!(claim["state"], "CLAIM_STATE_ACCEPTED");
    assert_ne!(claim["id"], withdrawn["id"]);
    assert_eq!(
        weft.json(&["claim", "list"]).await["claims"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // The payer's remittance refers to the claim that was submitted.
    weft.json(&["remittance", "import", &example("02_remittance_partial.xml")])
        .await;
    eventually(Duration::from_secs(30), || {
        agreed(&weft, 24_000, "ORDER_STATE_FULFILLED")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_amount_due_from_another_payer_is_shown_with_the_order() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    let text = std::fs::read_to_string(example("01_submission.xml"))
        .unwrap()
        .replace("<Gross>500.00<", "<Gross>550.00<");
    let file = stack.folder().join("shared.xml");
    std::fs::write(&file, text).unwrap();
    weft.json(&["order", "import", &file.display().to_string()]).await;
    let got = weft.run(&["order", "get", "TEST-FAC-1/CLM-0001"]).await;
    let shown = String::from_utf8_lossy(&got.stdout).into_owned();
    for row in [
        "gross            550.00 AED",
        "patient share    100.00 AED",
        "payer net        400.00 AED",
        "other payer      50.00 AED",
    ] {
        assert!(shown.contains(row), "{shown}{}", errors(&got));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_file_is_checked_and_leaves_nothing_behind() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    let text = std::fs::read_to_string(example("01_submission.xml"))
        .unwrap()
        .replace("PRODUCTION", "TEST");
    let file = stack.folder().join("test.xml");
    std::fs::write(&file, text).unwrap();
    let report = weft.json(&["order", "import", &file.display().to_string()]).await;
    assert_eq!(
        (&report["test"], &report["new"]["lines"]),
        (&true.into(), &1.into())
    );
    assert!(
        weft.json(&["order", "list"]).await["orders"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_breaks_its_own_rules_is_refused_whole_and_a_bad_claim_alone() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    let good = std::fs::read_to_string(example("01_submission.xml")).unwrap();
    let file = stack.folder().join("changed.xml");
    let path = file.display().to_string();

    std::fs::write(&file, good.replace("<RecordCount>1<", "<RecordCount>2<")).unwrap();
    let refused = weft.run(&["order", "import", &path]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("RECORD_COUNT"), "{}", errors(&refused));
    assert!(
        weft.json(&["order", "list"]).await["orders"]
            .as_array()
            .unwrap()
            .is_empty()
    );

    let claim = &good[good.find("  <Claim>").unwrap()..].replace("</Claim.Submission>", "");
    let bad = claim
        .replace("CLM-0001", "CLM-0002")
        .replace("<Type>Principal<", "<Type>Secondary<");
    let both = good
        .replace("<RecordCount>1<", "<RecordCount>2<")
        .replace("</Claim.Submission>", &format!("{bad}</Claim.Submission>"));
    std::fs::write(&file, both).unwrap();
    let report = weft.json(&["order", "import", &path]).await;
    assert_eq!(
        (&report["new"]["lines"], &report["refused"]["lines"]),
        (&1.into(), &1.into())
    );
    assert_eq!(report["remarks"][0]["document"], "CLM-0002");
    assert_eq!(report["balanced"], true);
}

//! `weft remittance parked|book|discard`: lines that were not booked are listed with what they wait for, and are
//! booked or discarded once.

use std::time::Duration;

use serde_json::Value;
use tests::{Stack, eventually, workspace_root};

use crate::cli_fixture::{Weft, errors, example, minor};

const CLAIM: &str = "TEST-FAC-1/CLM-0001";

/// The net amount paid on the claim, in fils.
async fn net_paid(weft: &Weft<'_>) -> i64 {
    minor(&weft.json(&["claim", "get", CLAIM]).await["claim"]["netPaid"])
}

async fn parked(weft: &Weft<'_>, filters: &[&str]) -> Vec<Value> {
    let listed = weft.json(&[&["remittance", "parked"], filters].concat()).await;
    listed["lines"].as_array().expect("lines").clone()
}

fn line_of(lines: &[Value], activity: &str) -> String {
    let found = lines
        .iter()
        .find(|parked| parked["line"]["activityId"] == activity);
    found.expect("the line is parked")["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The command's output as text.
async fn shown(weft: &Weft<'_>, arguments: &[&str]) -> String {
    let output = weft.run(arguments).await;
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        errors(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn early_lines_wait_for_their_claim_unless_they_are_discarded() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    assert_eq!(shown(&weft, &["remittance", "parked"]).await, "no parked lines\n");
    weft.json(&["remittance", "import", &example("02_remittance_partial.xml")])
        .await;
    let early = parked(&weft, &["--reason", "early"]).await;
    assert_eq!(early.len(), 3, "{early:#?}");
    assert_eq!(
        shown(&weft, &["remittance", "parked", "--reason", "repeated"]).await,
        "no parked lines match\n"
    );
    assert_eq!(
        shown(&weft, &["remittance", "parked", "--claim", "CLM-9"]).await,
        "no parked lines match\n"
    );
    let table = shown(&weft, &["remittance", "parked", "--claim", "CLM-0001"]).await;
    for text in [
        "WAITS FOR",
        "its claim",
        CLAIM,
        "150.00 AED",
        "CHQ-1001",
        "02_remittance_partial.xml",
    ] {
        assert!(table.contains(text), "{text} is not in {table}");
    }

    let third = line_of(&early, "A3");
    let soon = weft
        .run(&["-o", "json", "remittance", "book", &third, "--reason", "because"])
        .await;
    assert_eq!(soon.status.code(), Some(1));
    let refused: Value = serde_json::from_str(&errors(&soon)).expect("one JSON document");
    assert_eq!(refused["error"]["reason"], "CLAIM_NOT_FILED", "{refused:#}");

    let discard = [
        "remittance",
        "discard",
        &third,
        "--reason",
        "sent by mistake,\nsays the payer",
    ];
    assert_eq!(
        shown(&weft, &discard).await,
        format!("line {third} is discarded: it is not booked\n")
    );
    let again = weft.run(&discard).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(
        errors(&again).contains("PARKED_LINE_NOT_FOUND"),
        "{}",
        errors(&again)
    );
    assert!(
        errors(&again).contains("next: weft remittance parked"),
        "{}",
        errors(&again)
    );

    weft.json(&["order", "import", &example("01_submission.xml")])
        .await;
    eventually(Duration::from_secs(30), async || {
        match parked(&weft, &[]).await.len() {
            0 => Ok(()),
            waiting => Err(format!("{waiting} lines wait")),
        }
    })
    .await;
    assert_eq!(net_paid(&weft).await, 15_000, "the discarded 90.00 is not paid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_line_is_booked_or_discarded_by_a_person_and_once() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    weft.json(&["order", "import", &example("01_submission.xml")])
        .await;
    let inputs = workspace_root().join("tests/inputs");
    let file = |name: &str| inputs.join(name).display().to_string();
    weft.json(&["remittance", "import", &file("02_silent.xml")]).await;
    assert_eq!(net_paid(&weft).await, 13_000);
    let held = weft
        .run(&["-o", "json", "remittance", "import", &file("02_silent_crlf.xml")])
        .await;
    assert_eq!(
        held.status.code(),
        Some(1),
        "held lines are for a person: {}",
        errors(&held)
    );
    let report: Value = serde_json::from_slice(&held.stdout).unwrap();
    assert_eq!(
        (
            &report["report"]["bookedLines"],
            &report["report"]["repeatedLines"]
        ),
        (&0.into(), &3.into())
    );
    assert_eq!(net_paid(&weft).await, 13_000);

    let repeated = parked(&weft, &["--reason", "repeated"]).await;
    assert_eq!(repeated.len(), 3);
    let first = line_of(&repeated, "A1");
    let booked = shown(
        &weft,
        &[
            "remittance",
            "book",
            &first,
            "--reason",
            "two cheques, says the payer",
        ],
    )
    .await;
    assert_eq!(
        booked,
        format!("line {first} is booked: claim CLM-0001 has 200.00 AED net paid\n")
    );
    let twice = weft
        .run(&["remittance", "book", &first, "--reason", "once more"])
        .await;
    assert_eq!(twice.status.code(), Some(1));
    assert_eq!(net_paid(&weft).await, 20_000);
    for activity in ["A2", "A3"] {
        let line = line_of(&repeated, activity);
        let answer = weft
            .json(&["remittance", "discard", &line, "--reason", "sent twice"])
            .await;
        assert_eq!(answer["claim"], Value::Null);
    }
    assert!(parked(&weft, &[]).await.is_empty());
    assert_eq!(net_paid(&weft).await, 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_line_is_named_by_its_number_and_discarded_with_a_reason_by_permitted_roles() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    for wrong in [
        &["remittance", "book", "1"][..],
        &["remittance", "book", "1", "--reason", ""],
        &["remittance", "discard", "0", "--reason", "because"],
        &["remittance", "discard", "-1", "--reason", "because"],
        &["remittance", "discard", "CLM-0001", "--reason", "because"],
        &["remittance", "parked", "--reason", "earlyy"],
        &["remittance", "parked", "--claim", ""],
        &["remittance", "parked", "--limit", "0"],
    ] {
        let output = weft.run(wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", errors(&output));
    }
    let unknown = weft
        .run(&["remittance", "book", "1", "--reason", "because"])
        .await;
    assert!(
        errors(&unknown).contains("PARKED_LINE_NOT_FOUND"),
        "{}",
        errors(&unknown)
    );
    let viewer = Weft::new(&stack, "TEST-FAC-1", &["viewer"]);
    let refused = viewer
        .run(&["remittance", "discard", "1", "--reason", "because"])
        .await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        errors(&refused).contains("PERMISSION_DENIED"),
        "{}",
        errors(&refused)
    );
}

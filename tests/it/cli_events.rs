//! `weft events` and `weft dlq` against running services: a claim's event that names no order, and what becomes of it.

use std::{fs, time::Duration};

use async_nats::HeaderMap;
use prost::Message as _;
use proto::claims::v1::ClaimRejected;
use serde_json::Value;
use tests::{Stack, eventually};
use uuid::Uuid;

use crate::cli_rig::{Weft, errors};

const FACILITY: &str = "TEST-FAC-1";

/// Publishes an event as the claims service would, but for an order that cannot be one.
async fn publish_misspelt(stack: &Stack) {
    let (claim, event) = (Uuid::new_v4().to_string(), Uuid::now_v7().to_string());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-id", event.as_str()),
        ("ce-type", "claims.v1.ClaimRejected"),
        ("ce-facility", FACILITY),
        ("ce-aggregate", "claim"),
        ("ce-partitionkey", &claim),
        ("ce-sequence", "2"),
    ] {
        headers.insert(name, value);
    }
    let body = ClaimRejected {
        order_id: "misspelt".into(),
        ..Default::default()
    };
    let jetstream = async_nats::jetstream::new(stack.nats().client().await);
    let publish =
        jetstream.publish_with_headers("evt.claims.claim.rejected", headers, body.encode_to_vec().into());
    publish.await.unwrap().await.unwrap();
}

async fn open(weft: &Weft<'_>, count: usize) -> Vec<Value> {
    eventually(Duration::from_secs(20), || async {
        let listed = weft.json(&["dlq", "list"]).await;
        let letters = listed["deadLetters"].as_array().unwrap().clone();
        if letters.len() == count {
            Ok(letters)
        } else {
            Err(format!("{} dead letters", letters.len()))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_after_dead_letters_from_the_command_line() {
    let stack = Stack::start().await;
    let weft = Weft::of(&stack, FACILITY, &["admin", "operator"]);
    publish_misspelt(&stack).await;
    publish_misspelt(&stack).await;
    let letters = open(&weft, 2).await;
    let id = |at: usize| letters[at]["deadLetter"]["id"].as_str().unwrap();

    let groups = weft.json(&["dlq", "groups"]).await;
    let group = &groups["groups"][0]["group"];
    assert_eq!(
        (&group["count"], &group["errorCode"]),
        (&2.into(), &"ORDER_ID_MALFORMED".into())
    );
    let fingerprint = group["fingerprint"].as_str().unwrap();

    let rehearsed = weft.run(&["dlq", "replay", id(0), "--dry-run"]).await;
    assert_eq!(rehearsed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&rehearsed.stdout).into_owned();
    assert!(
        said.contains("it would fail again: SCHEMA ORDER_ID_MALFORMED"),
        "{said}"
    );
    assert!(errors(&rehearsed).contains(&format!("next: weft dlq edit {}", id(0))));

    let canary = weft
        .run(&[
            "dlq",
            "replay",
            "--group",
            fingerprint,
            "--canary",
            "--rate",
            "100",
            "--wait",
            "20s",
        ])
        .await;
    assert_eq!(canary.status.code(), Some(1));
    let said = String::from_utf8_lossy(&canary.stdout).into_owned();
    assert!(said.contains("STOPPED"), "{said} {}", errors(&canary));

    let asked = weft
        .run(&["dlq", "discard", id(1), "--reason", "entered twice"])
        .await;
    assert_eq!(
        asked.status.code(),
        Some(2),
        "nobody can answer: {}",
        errors(&asked)
    );
    weft.json(&["dlq", "discard", id(1), "--reason", "entered twice", "--yes"])
        .await;

    let body = stack.folder().join("body.json");
    fs::write(&body, format!(r#"{{"orderId": "{}"}}"#, Uuid::new_v4())).unwrap();
    let body = body.to_str().unwrap();
    let edit = [
        "dlq",
        "edit",
        id(0),
        "--body",
        body,
        "--reason",
        "the order was misspelt",
    ];
    let rehearsed = weft.json(&[&edit[..], &["--dry-run"]].concat()).await;
    assert_eq!(rehearsed["wouldResolve"], true);
    let edited = weft.json(&[&edit[..], &["--yes"]].concat()).await;
    assert_eq!(edited["deadLetter"]["state"], "DEAD_LETTER_STATE_RESOLVED");
    open(&weft, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_looks_after_the_events_from_the_command_line() {
    let stack = Stack::start().await;
    let weft = Weft::of(&stack, FACILITY, &["admin"]);
    weft.json(&["order", "import", &crate::cli_rig::example("01_submission.xml")])
        .await;

    let audited = weft.json(&["events", "audit"]).await;
    let logged = |at: usize| audited["audits"][at]["audit"]["loggedCount"].as_str().unwrap() != "0";
    assert!(logged(0), "{audited}");
    let output = weft
        .run(&[
            "-o",
            "json",
            "events",
            "tail",
            "--service",
            "order",
            "--since",
            "10m",
            "--count",
            "1",
        ])
        .await;
    let first: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(first["eventType"], "order.v1.OrderPlaced", "{first}");
    assert_eq!(first["facility"], FACILITY);

    let lag = weft.json(&["events", "lag"]).await;
    let names: Vec<_> = lag["consumers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["consumer"]["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"order-claims"), "{names:?}");
    let planned = weft.json(&["events", "apply", "--dry-run"]).await;
    assert_eq!(planned["differences"], Value::Array(vec![]));
    weft.run(&["events", "pause", "order-claims", "--reason", "a look at it"])
        .await;
    let held = String::from_utf8_lossy(&weft.run(&["events", "lag"]).await.stdout).into_owned();
    assert!(held.contains("HELD"), "{held}");
    weft.run(&["events", "resume", "order-claims"]).await;
    let rebuilt = weft.json(&["events", "rebuild", "--yes"]).await;
    assert_eq!(rebuilt["rebuilt"][0]["republishedCount"], "0");
}

//! `weft events` and `weft dlq` against running services: a claim's event whose order id is invalid, and how
//! operators handle it.

use std::{fs, time::Duration};

use async_nats::HeaderMap;
use prost::Message as _;
use proto::claims::v1::ClaimRejected;
use serde_json::Value;
use tests::{Options, Service, Stack, eventually};
use uuid::Uuid;

use crate::cli_fixture::{Weft, errors};

const FACILITY: &str = "TEST-FAC-1";

/// Publishes an event as the claims service would, but with an invalid order id.
async fn publish_malformed(stack: &Stack) {
    publish_malformed_of(stack, FACILITY).await;
}

async fn publish_malformed_of(stack: &Stack, facility: &str) {
    let (claim, event) = (Uuid::new_v4().to_string(), Uuid::now_v7().to_string());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-id", event.as_str()),
        ("ce-type", "claims.v1.ClaimRejected"),
        ("ce-facility", facility),
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
async fn an_operator_handles_dead_letters_from_the_command_line() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, FACILITY, &["admin", "operator"]);
    publish_malformed(&stack).await;
    publish_malformed(&stack).await;
    let letters = open(&weft, 2).await;
    let id = |at: usize| letters[at]["deadLetter"]["id"].as_str().unwrap();

    let groups = weft.json(&["dlq", "groups"]).await;
    let group = &groups["groups"][0]["group"];
    assert_eq!(
        (&group["count"], &group["errorCode"]),
        (&2.into(), &"ORDER_ID_MALFORMED".into())
    );
    assert_eq!(groups["partial"], false);
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

    let all = weft
        .run(&["-o", "json", "dlq", "replay", "--all", "--wait", "20s"])
        .await;
    assert_eq!(
        all.status.code(),
        Some(1),
        "none of them can succeed: {}",
        errors(&all)
    );
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!(
        all["runs"].as_array().unwrap().len(),
        1,
        "the other services have none"
    );
    assert_eq!(all["runs"][0]["service"], "order");
    assert_eq!(all["runs"][0]["run"]["failedCount"], 2);

    let asked = weft
        .run(&["dlq", "discard", id(1), "--reason", "entered twice"])
        .await;
    assert_eq!(
        asked.status.code(),
        Some(2),
        "no terminal to answer: {}",
        errors(&asked)
    );
    weft.json(&["dlq", "discard", id(1), "--reason", "entered twice", "--yes"])
        .await;

    let body = stack.folder().join("body.json");
    fs::write(&body, "{}").unwrap();
    let empty = [
        "dlq",
        "edit",
        id(0),
        "--body",
        body.to_str().unwrap(),
        "--reason",
        "because",
        "--dry-run",
    ];
    let empty = weft.run(&empty).await;
    assert_eq!(empty.status.code(), Some(1));
    let stdout = String::from_utf8_lossy(&empty.stdout).into_owned();
    assert!(
        stdout.contains(r#"ORDER_ID_MALFORMED: order_id: "" is not a UUID"#),
        "{stdout}"
    );

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
async fn groups_with_more_dead_letters_than_are_counted_are_marked() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, FACILITY, &["operator"]);
    publish_malformed(&stack).await;
    open(&weft, 1).await;
    let copies = "insert into events.dead_letter
        select copy.* from events.dead_letter d, generate_series(1, 10000) n,
            lateral jsonb_populate_record(d, jsonb_build_object('id', md5(n::text)::uuid,
                'event_id', md5(n::text)::uuid)) copy";
    let pool = stack.database(Service::Order).superuser().await;
    sqlx::query(copies).execute(&pool).await.unwrap();
    let groups = weft.run(&["dlq", "groups"]).await;
    assert!(
        errors(&groups).contains("more than 10,000 dead letters are open in order"),
        "{}",
        errors(&groups)
    );
    assert_eq!(weft.json(&["dlq", "groups"]).await["partial"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_handles_messages_without_a_facility_from_the_command_line() {
    let stack = Stack::start().await;
    let administrator = Weft::new(&stack, "head-office", &["admin"]);
    publish_malformed_of(&stack, "no facility at all").await;
    let letters = open(&administrator, 1).await;
    let id = letters[0]["deadLetter"]["id"].as_str().unwrap();
    for roles in [&["operator"][..], &["clerk", "viewer", "operator"]] {
        let operator = Weft::new(&stack, FACILITY, roles);
        open(&operator, 0).await;
        let none = operator.json(&["dlq", "groups"]).await;
        assert_eq!(none["groups"], Value::Array(vec![]));
        for command in [
            &["show", id][..],
            &["replay", id],
            &["discard", id, "--reason", "mine", "--yes"],
        ] {
            let refused = operator.run(&[&["dlq"], command].concat()).await;
            assert_eq!(refused.status.code(), Some(1), "{command:?}");
            assert!(errors(&refused).contains("NOT_FOUND"), "{}", errors(&refused));
        }
    }

    let groups = administrator.json(&["dlq", "groups"]).await;
    assert_eq!(groups["groups"][0]["group"]["errorCode"], "ENVELOPE_MALFORMED");
    let shown = administrator.run(&["dlq", "show", id]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in [
        "(no facility)",
        "ce-facility: no facility at all",
        "\"orderId\": \"misspelt\"",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let replayed = administrator.run(&["dlq", "replay", id, "--wait", "20s"]).await;
    assert_eq!(replayed.status.code(), Some(1));
    assert!(
        errors(&replayed).contains("it failed again"),
        "{}",
        errors(&replayed)
    );
    let discarded = administrator
        .json(&[
            "dlq",
            "discard",
            id,
            "--reason",
            "sent again by the claims team",
            "--yes",
        ])
        .await;
    assert_eq!(discarded["deadLetter"]["state"], "DEAD_LETTER_STATE_DISCARDED");
    let actions: Vec<_> = discarded["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| &action["action"])
        .collect();
    assert_eq!(actions, ["ReplayDeadLetter", "DiscardDeadLetter"]);
    open(&administrator, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_approved_by_a_second_person_from_the_command_line() {
    let options = Options::default()
        .set(Service::Order, "events.edits_need_approval", "true")
        .environment("WEFT_BUILD", "0.1.0+4e1f0c2a9b71");
    let stack = Stack::with(options).await;
    let olivia = Weft::with_subject(&stack, "olivia", FACILITY, &["operator"]);
    let peter = Weft::with_subject(&stack, "peter", FACILITY, &["operator"]);
    publish_malformed(&stack).await;
    let letters = open(&olivia, 1).await;
    let id = letters[0]["deadLetter"]["id"].as_str().unwrap();
    assert_eq!(letters[0]["deadLetter"]["handlerVersion"], "0.1.0+4e1f0c2a9b71");
    let nothing = peter.run(&["dlq", "approve", id, "--yes"]).await;
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        errors(&nothing).contains("waits for approval"),
        "{}",
        errors(&nothing)
    );

    let body = stack.folder().join("body.json");
    fs::write(&body, format!(r#"{{"orderId": "{}"}}"#, Uuid::new_v4())).unwrap();
    let edit = [
        "dlq",
        "edit",
        id,
        "--body",
        body.to_str().unwrap(),
        "--reason",
        "misspelt",
        "--yes",
    ];
    let proposed = olivia.run(&edit).await;
    assert_eq!(proposed.status.code(), Some(0), "{}", errors(&proposed));
    assert!(errors(&proposed).contains(&format!("by somebody else: weft dlq approve {id}")));
    let own = olivia.run(&["dlq", "approve", id, "--yes"]).await;
    assert_eq!(own.status.code(), Some(1));
    assert!(errors(&own).contains("a second person must"), "{}", errors(&own));
    open(&olivia, 1).await;

    let asked = peter.run(&["dlq", "approve", id]).await;
    assert_eq!(
        asked.status.code(),
        Some(2),
        "no terminal to answer: {}",
        errors(&asked)
    );
    let approved = peter.json(&["dlq", "approve", id, "--yes"]).await;
    assert_eq!(approved["deadLetter"]["state"], "DEAD_LETTER_STATE_RESOLVED");
    let edit = &approved["edit"];
    assert_eq!(
        (&edit["proposedBy"], &edit["approvedBy"]),
        (&"olivia".into(), &"peter".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_operates_consumers_and_streams_from_the_command_line() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, FACILITY, &["admin"]);
    weft.json(&[
        "order",
        "import",
        &crate::cli_fixture::example("01_submission.xml"),
    ])
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

//! A handler that aborts its process.

use tests::{
    Node, Role,
    backbone::{self, CONSUMER},
    eventually,
};
use uuid::Uuid;

use crate::events_fixture::{Fixture, SOON, event};

#[tokio::test]
async fn an_event_that_aborts_the_process_is_quarantined_after_two_tries_and_the_others_flow() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let (failing, unrelated): (Uuid, Vec<Uuid>) = (Uuid::new_v4(), (0..10).map(|_| Uuid::new_v4()).collect());
    for aggregate in &unrelated {
        fixture.append(*aggregate, 1..=3).await;
    }
    fixture.append(failing, [1, 2, 7, 8]).await;
    for aggregate in &unrelated {
        fixture.append(*aggregate, 4..=6).await;
    }
    let mut settings = backbone::settings(fixture.nats.url(), fixture.nats.monitoring_url());
    // Events in delivery to a process that died are redelivered after this time.
    settings.consumer.ack_wait_ms = 2_000;
    let node = Node::start(Role::AbortsAt(7), &fixture.database, &settings).await;

    let deaths = until_quarantined(&fixture, &node, failing).await;
    for aggregate in &unrelated {
        assert_eq!(fixture.effects(*aggregate, 6).await, (1..=6).collect::<Vec<_>>());
    }
    fixture
        .eventually_count(1, "select count(*) from events.parked")
        .await;
    assert_eq!(fixture.versions(failing).await, [1, 2]);
    assert_eq!(
        fixture
            .database
            .count("select count(*) from events.dead_letter")
            .await,
        1
    );
    // The first crash is not attributed to the event; the next two, whose start was recorded, are.
    assert_eq!(deaths, 3);
}

#[tokio::test]
async fn an_event_that_aborts_the_process_in_a_transaction_with_others_is_quarantined_alone() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let (failing, unrelated): (Uuid, Vec<Uuid>) = (Uuid::new_v4(), (0..40).map(|_| Uuid::new_v4()).collect());
    let mut events: Vec<_> = unrelated.iter().map(|id| event(*id, 1)).collect();
    events.insert(20, event(failing, 7));
    fixture.append_all(&events).await;
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    let mut settings = backbone::settings(fixture.nats.url(), fixture.nats.monitoring_url());
    settings.consumer.ack_wait_ms = 2_000;
    let node = Node::start(Role::AbortsAt(7), &fixture.database, &settings).await;
    assert_eq!(until_quarantined(&fixture, &node, failing).await, 3);
    fixture.eventually_count(40, "select count(*) from effect").await;
    fixture
        .eventually_count(1, "select count(*) from events.dead_letter")
        .await;
    assert_eq!(
        fixture.database.count("select count(*) from events.inbox").await,
        40
    );
    // Events that had taken effect and were redelivered, because their acknowledgement was lost with the process,
    // do not count a crash.
    assert_eq!(
        fixture
            .database
            .count("select count(*) from events.failure")
            .await,
        0
    );
}

/// Restarts a process that has died, as Kubernetes does, until version 7 of an aggregate is a dead letter. Returns
/// the number of deaths.
async fn until_quarantined(fixture: &Fixture, node: &Node, failing: Uuid) -> u32 {
    let mut deaths = 0;
    let quarantined = format!(
        "select count(*) from events.dead_letter
         where consumer = '{CONSUMER}' and error_class = 'crash' and version = 7 and aggregate_id = '{failing}'"
    );
    while fixture.database.count(&quarantined).await == 0 {
        assert!(deaths < 10, "{}", node.log());
        eventually(SOON, || async {
            node.ended() || fixture.database.count(&quarantined).await == 1
        })
        .await;
        if node.ended() {
            deaths += 1;
            node.restart().await;
        }
    }
    deaths
}

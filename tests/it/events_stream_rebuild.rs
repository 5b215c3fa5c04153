//! The stream is a copy of the event log and can be rebuilt from it.

use std::time::Duration;

use async_nats::jetstream;
use events::Audit;
use tests::{backbone::published, eventually};
use uuid::Uuid;

use crate::events_fixture::{Fixture, SOON};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_broker_that_lost_its_data_receives_the_log_again_before_newer_events() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let consumer = fixture.consume(|_| Ok(()));
    let (known, unknown) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.append(known, 1..=3).await;
    fixture.effects(known, 3).await;
    consumer.cancel();
    fixture.append(unknown, 1..=3).await;
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;

    fixture.nats.kill9();
    fixture.nats.wipe();
    fixture.append(unknown, 4..=5).await;
    fixture.append(known, 4..=5).await;
    fixture.nats.restart().await;
    fixture.consume(|_| Ok(()));
    assert_eq!(fixture.effects(unknown, 5).await, [1, 2, 3, 4, 5]);
    assert_eq!(fixture.effects(known, 5).await, [1, 2, 3, 4, 5]);
    fixture.eventually_count(10, "select count(*) from effect").await;
}

#[tokio::test]
async fn a_pending_event_outlives_its_partition_of_the_log() {
    let mut fixture = Fixture::start().await;
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, 1..=1).await;
    let superuser = fixture.database.superuser().await;
    for statement in [
        "create table events.event_log_20200101 partition of events.event_log_published
             for values from ('2020-01-01 00:00:00+00') to ('2020-01-02 00:00:00+00')",
        "update events.outbox set occurred_at = '2020-01-01 12:00:00+00'",
    ] {
        sqlx::query(statement).execute(&superuser).await.unwrap();
    }
    let drop_old = "select events.drop_partitions(90)::bigint";
    assert_eq!(fixture.database.count(drop_old).await, 1);
    fixture.publish();
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    let logged = "select count(*) from events.event_log";
    assert_eq!(fixture.database.count(logged).await, 1);
    let published = published(&fixture.nats).await;
    assert_eq!((published.len(), published[0].aggregate), (1, aggregate));
    // Now that it is published, its age is that of its event.
    fixture.database.count(drop_old).await;
    assert_eq!(fixture.database.count(logged).await, 0);
}

#[tokio::test]
async fn a_running_consumer_continues_without_a_second_effect_when_the_broker_loses_its_data() {
    let fixture = Fixture::flowing().await;
    let aggregates: Vec<_> = (0..20).map(|_| Uuid::new_v4()).collect();
    let append = async |versions: std::ops::RangeInclusive<i64>| {
        for aggregate in &aggregates {
            fixture.append(*aggregate, versions.clone()).await;
        }
    };
    append(1..=5).await;
    fixture.eventually_count(100, "select count(*) from effect").await;
    // Some of these have taken effect when the broker dies, and some have not.
    append(6..=10).await;
    fixture.nats.kill9();
    fixture.nats.wipe();
    append(11..=15).await;
    fixture.nats.restart().await;
    append(16..=20).await;
    for aggregate in &aggregates {
        assert_eq!(
            fixture.effects(*aggregate, 20).await,
            (1..=20).collect::<Vec<_>>()
        );
    }
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    let again = Audit::new(&fixture.bus, &fixture.pool)
        .compare(DAY)
        .await
        .unwrap();
    assert_eq!((again.logged, again.missing.len()), (400, 0));
    assert_eq!(fixture.database.count("select count(*) from effect").await, 400);
}

#[tokio::test]
async fn an_audit_finds_what_the_stream_lacks_and_publishes_it_again() {
    let fixture = Fixture::flowing().await;
    let aggregate = Uuid::new_v4();
    let events = fixture.append(aggregate, 1..=10).await;
    fixture.effects(aggregate, 10).await;
    let audit = Audit::new(&fixture.bus, &fixture.pool);
    let report = audit.compare(DAY).await.unwrap();
    assert_eq!((report.logged, report.pending, report.missing.len()), (10, 0, 0));

    let jetstream = jetstream::new(fixture.nats.client().await);
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    for sequence in [3, 7] {
        stream.delete_message(sequence).await.unwrap();
    }
    let report = audit.compare(DAY).await.unwrap();
    assert_eq!(report.missing, [events[2].id, events[6].id]);

    assert_eq!(audit.republish(&report).await.unwrap(), 2);
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    assert!(audit.compare(DAY).await.unwrap().missing.is_empty());
    assert_eq!(stream.get_info().await.unwrap().state.messages, 10);
    fixture.append(aggregate, [11]).await;
    assert_eq!(fixture.effects(aggregate, 11).await, (1..=11).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_pending_in_the_outbox_is_not_reported_as_missing() {
    let fixture = Fixture::start().await;
    fixture.append(Uuid::new_v4(), 1..=4).await;
    eventually(SOON, || async { fixture.bus.status().borrow().then_some(()) }).await;
    let report = Audit::new(&fixture.bus, &fixture.pool)
        .compare(DAY)
        .await
        .unwrap();
    assert_eq!((report.logged, report.pending, report.missing.len()), (4, 4, 0));
}

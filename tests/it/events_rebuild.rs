//! The stream is a copy of the log, and can be made again.

use std::time::Duration;

use async_nats::jetstream;
use events::Audit;
use tests::{backbone::published, eventually};
use uuid::Uuid;

use crate::events_rig::{Rig, SOON};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_broker_that_lost_its_data_gets_the_log_again_before_anything_newer() {
    let mut rig = Rig::start().await;
    rig.publish();
    let consumer = rig.consume(|_| Ok(()));
    let (known, unknown) = (Uuid::new_v4(), Uuid::new_v4());
    rig.append(known, 1..=3).await;
    rig.effects(known, 3).await;
    consumer.cancel();
    rig.append(unknown, 1..=3).await;
    rig.eventually_count(0, "select count(*) from events.outbox")
        .await;

    rig.nats.kill9();
    rig.nats.wipe();
    rig.append(unknown, 4..=5).await;
    rig.append(known, 4..=5).await;
    rig.nats.restart().await;
    rig.consume(|_| Ok(()));
    assert_eq!(rig.effects(unknown, 5).await, [1, 2, 3, 4, 5]);
    assert_eq!(rig.effects(known, 5).await, [1, 2, 3, 4, 5]);
    rig.eventually_count(10, "select count(*) from effect").await;
}

#[tokio::test]
async fn an_event_that_waits_outlives_its_day_of_the_log() {
    let mut rig = Rig::start().await;
    let aggregate = Uuid::new_v4();
    rig.append(aggregate, 1..=1).await;
    let superuser = rig.database.superuser().await;
    for statement in [
        "create table events.event_log_20200101 partition of events.event_log_published
             for values from ('2020-01-01 00:00:00+00') to ('2020-01-02 00:00:00+00')",
        "update events.outbox set occurred_at = '2020-01-01 12:00:00+00'",
    ] {
        sqlx::query(statement).execute(&superuser).await.unwrap();
    }
    let drop_old = "select events.drop_partitions(90)::bigint";
    assert_eq!(rig.database.count(drop_old).await, 1);
    rig.publish();
    rig.eventually_count(0, "select count(*) from events.outbox")
        .await;
    let logged = "select count(*) from events.event_log";
    assert_eq!(rig.database.count(logged).await, 1);
    let published = published(&rig.nats).await;
    assert_eq!((published.len(), published[0].aggregate), (1, aggregate));
    // Now that it is published it is as old as it looks.
    rig.database.count(drop_old).await;
    assert_eq!(rig.database.count(logged).await, 0);
}

#[tokio::test]
async fn a_consumer_that_runs_while_the_broker_loses_its_data_goes_on_without_a_second_effect() {
    let rig = Rig::flowing().await;
    let aggregates: Vec<_> = (0..20).map(|_| Uuid::new_v4()).collect();
    let append = async |versions: std::ops::RangeInclusive<i64>| {
        for aggregate in &aggregates {
            rig.append(*aggregate, versions.clone()).await;
        }
    };
    append(1..=5).await;
    rig.eventually_count(100, "select count(*) from effect").await;
    // Some of these have taken effect when the broker dies, and some have not.
    append(6..=10).await;
    rig.nats.kill9();
    rig.nats.wipe();
    append(11..=15).await;
    rig.nats.restart().await;
    append(16..=20).await;
    for aggregate in &aggregates {
        assert_eq!(rig.effects(*aggregate, 20).await, (1..=20).collect::<Vec<_>>());
    }
    rig.eventually_count(0, "select count(*) from events.outbox")
        .await;
    let again = Audit::new(&rig.bus, &rig.pool).compare(DAY).await.unwrap();
    assert_eq!((again.logged, again.missing.len()), (400, 0));
    assert_eq!(rig.database.count("select count(*) from effect").await, 400);
}

#[tokio::test]
async fn an_audit_finds_what_the_stream_lacks_and_publishes_it_again() {
    let rig = Rig::flowing().await;
    let aggregate = Uuid::new_v4();
    let events = rig.append(aggregate, 1..=10).await;
    rig.effects(aggregate, 10).await;
    let audit = Audit::new(&rig.bus, &rig.pool);
    let report = audit.compare(DAY).await.unwrap();
    assert_eq!((report.logged, report.pending, report.missing.len()), (10, 0, 0));

    let jetstream = jetstream::new(rig.nats.client().await);
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    for sequence in [3, 7] {
        stream.delete_message(sequence).await.unwrap();
    }
    let report = audit.compare(DAY).await.unwrap();
    assert_eq!(report.missing, [events[2].id, events[6].id]);

    assert_eq!(audit.republish(&report).await.unwrap(), 2);
    rig.eventually_count(0, "select count(*) from events.outbox")
        .await;
    assert!(audit.compare(DAY).await.unwrap().missing.is_empty());
    assert_eq!(stream.get_info().await.unwrap().state.messages, 10);
    rig.append(aggregate, [11]).await;
    assert_eq!(rig.effects(aggregate, 11).await, (1..=11).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_that_waits_in_the_outbox_is_not_missing() {
    let rig = Rig::start().await;
    rig.append(Uuid::new_v4(), 1..=4).await;
    eventually(SOON, || async { rig.bus.status().borrow().then_some(()) }).await;
    let report = Audit::new(&rig.bus, &rig.pool).compare(DAY).await.unwrap();
    assert_eq!((report.logged, report.pending, report.missing.len()), (4, 4, 0));
}

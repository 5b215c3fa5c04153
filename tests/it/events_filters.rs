//! A consumer whose filter gains a subject receives the earlier events of the subject once, and no other event
//! twice.

use events::{
    Consumer, Delivery, Event, EventOperations, Handler, HandlerError, Maintenance, Meta, Operator,
};
use proto::{
    google::r#type::Money,
    ops::v1::{self as ops, event_service_server::EventService as _},
    order::v1::OrderFulfilled,
};
use sqlx::{Executor as _, PgConnection};
use tests::{Postgres, backbone::SUBJECT, eventually};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::by,
    events_fixture::{CONSUMER, FACILITY, Fixture, SOON, event},
};

pub(crate) const GAINED: &str = "evt.order.order.fulfilled";

/// Records every event; a second delivery violates the key and becomes a dead letter.
struct RecordsEvery;

impl Handler for RecordsEvery {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        sqlx::query("insert into effect (event_id, aggregate_id, version) values ($1, $2, $3)")
            .bind(delivery.id)
            .bind(delivery.aggregate_id)
            .bind(delivery.version)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// An event of the subject that the filter gains.
fn gained(aggregate: Uuid, version: i64) -> Event {
    let money = |units| {
        Some(Money {
            currency_code: "AED".into(),
            units,
            nanos: 0,
        })
    };
    let fulfilled = OrderFulfilled {
        order_id: aggregate.to_string(),
        patient_share: money(1),
        payer_net: money(2),
    };
    let meta = Meta {
        facility: FACILITY.into(),
        aggregate_id: aggregate,
        version,
        saga_id: None,
        causation_id: None,
    };
    Event::new(&fulfilled, meta)
}

pub(crate) fn consume(fixture: &mut Fixture, subjects: &[&str]) -> CancellationToken {
    fixture.consume_as(Consumer::new(CONSUMER, subjects, RecordsEvery))
}

/// Odd versions are of the existing subject, even ones of the added subject.
pub(crate) async fn append(fixture: &Fixture, aggregate: Uuid, versions: std::ops::RangeInclusive<i64>) {
    let events: Vec<_> = versions
        .map(|version| match version % 2 {
            0 => gained(aggregate, version),
            _ => event(aggregate, version),
        })
        .collect();
    fixture.append_all(&events).await;
}

async fn stop(fixture: &Fixture, consumer: CancellationToken) {
    consumer.cancel();
    fixture
        .eventually_count(
            0,
            "select count(*) from events.lease where name like 'consumer:%' and until > now()",
        )
        .await;
}

/// The versions that took effect, in ascending order.
pub(crate) async fn effects(fixture: &Fixture, aggregate: Uuid, count: usize) -> Vec<i64> {
    let mut versions = fixture.effects(aggregate, count).await;
    versions.sort_unstable();
    versions
}

pub(crate) async fn assert_no_duplicates(fixture: &Fixture) {
    let letters = "select count(*) from events.dead_letter";
    assert_eq!(fixture.database.count(letters).await, 0);
}

/// Ten events are in the stream, and the consumer has passed the five of the subject that it does not consume yet.
async fn with_passed_events() -> (Fixture, Uuid) {
    let mut fixture = Fixture::start().await;
    let aggregate = pass_events(&mut fixture).await;
    (fixture, aggregate)
}

/// Does this in a started fixture.
pub(crate) async fn pass_events(fixture: &mut Fixture) -> Uuid {
    fixture.publish();
    let consumer = consume(fixture, &[SUBJECT]);
    let aggregate = Uuid::new_v4();
    append(fixture, aggregate, 1..=10).await;
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    assert_eq!(effects(fixture, aggregate, 5).await, [1, 3, 5, 7, 9]);
    stop(fixture, consumer).await;
    aggregate
}

#[tokio::test]
async fn a_consumer_whose_filter_gains_a_subject_receives_its_earlier_events() {
    let (mut fixture, aggregate) = with_passed_events().await;
    let consumer = consume(&mut fixture, &[SUBJECT, GAINED]);
    append(&fixture, aggregate, 11..=14).await;
    assert_eq!(
        effects(&fixture, aggregate, 14).await,
        (1..=14).collect::<Vec<_>>()
    );
    stop(&fixture, consumer).await;
    // The earlier events arrived in order.
    let in_order = fixture.versions(aggregate).await;
    let of_gained: Vec<_> = in_order.into_iter().filter(|version| version % 2 == 0).collect();
    assert_eq!(of_gained, [2, 4, 6, 8, 10, 12, 14]);
    // After another restart it continues where it was.
    consume(&mut fixture, &[SUBJECT, GAINED]);
    append(&fixture, aggregate, 15..=16).await;
    assert_eq!(
        effects(&fixture, aggregate, 16).await,
        (1..=16).collect::<Vec<_>>()
    );
    assert_no_duplicates(&fixture).await;
}

#[tokio::test]
async fn effects_older_than_the_pruned_inbox_are_not_repeated() {
    let (mut fixture, aggregate) = with_passed_events().await;
    let superuser = fixture.database.superuser().await;
    superuser
        .execute("update events.inbox set received_at = now() - interval '31 days'")
        .await
        .unwrap();
    let maintenance = Maintenance::new(&fixture.bus, &fixture.pool);
    fixture.spawn(|stop| maintenance.run(stop));
    fixture
        .eventually_count(0, "select count(*) from events.inbox")
        .await;
    consume(&mut fixture, &[SUBJECT, GAINED]);
    append(&fixture, aggregate, 11..=14).await;
    assert_eq!(
        effects(&fixture, aggregate, 14).await,
        (1..=14).collect::<Vec<_>>()
    );
    assert_no_duplicates(&fixture).await;
}

#[tokio::test]
async fn an_earlier_event_that_may_have_been_pruned_from_the_inbox_takes_no_effect() {
    let (mut fixture, aggregate) = with_passed_events().await;
    let consumer = consume(&mut fixture, &[SUBJECT, GAINED]);
    assert_eq!(effects(&fixture, aggregate, 10).await.len(), 10);
    stop(&fixture, consumer).await;
    // An earlier build runs for a while, and the inbox is emptied.
    let consumer = consume(&mut fixture, &[SUBJECT]);
    append(&fixture, aggregate, 11..=11).await;
    assert_eq!(effects(&fixture, aggregate, 11).await.len(), 11);
    stop(&fixture, consumer).await;
    let superuser = fixture.database.superuser().await;
    superuser.execute("delete from events.inbox").await.unwrap();
    consume(&mut fixture, &[SUBJECT, GAINED]);
    append(&fixture, aggregate, 12..=15).await;
    assert_eq!(
        effects(&fixture, aggregate, 15).await,
        (1..=15).collect::<Vec<_>>()
    );
    assert_no_duplicates(&fixture).await;
}

#[tokio::test]
async fn a_consumer_catches_up_with_a_filter_that_was_widened_before_it_started() {
    let (mut fixture, aggregate) = with_passed_events().await;
    // The earlier build consumes; the next one waits for the lease, and an operator applies its definitions.
    let earlier = consume(&mut fixture, &[SUBJECT]);
    append(&fixture, aggregate, 11..=11).await;
    assert_eq!(effects(&fixture, aggregate, 6).await.len(), 6);
    consume(&mut fixture, &[SUBJECT, GAINED]);
    let operations = EventOperations::new(&fixture.bus, &fixture.pool, |extensions| {
        Ok(extensions.get::<Operator>().unwrap().clone())
    });
    eventually(SOON, || async {
        let request = ops::ApplyStreamsRequest {
            request_id: Uuid::new_v4().to_string(),
            validate_only: false,
        };
        let answer = operations.apply_streams(by(FACILITY, request)).await.unwrap();
        let differences = answer.into_inner().differences;
        differences
            .iter()
            .any(|difference| difference.setting == "filter_subjects")
            .then_some(())
    })
    .await;
    earlier.cancel();
    assert_eq!(
        effects(&fixture, aggregate, 11).await,
        (1..=11).collect::<Vec<_>>()
    );
    assert_no_duplicates(&fixture).await;
}

#[tokio::test]
async fn a_consumer_that_the_broker_lost_during_catch_up_repeats_no_effect() {
    let (mut fixture, aggregate) = with_passed_events().await;
    let consumer = consume(&mut fixture, &[SUBJECT, GAINED]);
    assert_eq!(effects(&fixture, aggregate, 10).await.len(), 10);
    stop(&fixture, consumer).await;
    let superuser = fixture.database.superuser().await;
    superuser
        .execute(
            "update events.inbox set received_at = now() - interval '31 days'
             where event_id in (select event_id from effect where version % 2 = 1);
             delete from events.inbox where received_at < now() - interval '30 days'",
        )
        .await
        .unwrap();
    let jetstream = async_nats::jetstream::new(fixture.nats.client().await);
    jetstream
        .delete_consumer_from_stream(CONSUMER, "EVENTS")
        .await
        .unwrap();
    consume(&mut fixture, &[SUBJECT, GAINED]);
    append(&fixture, aggregate, 11..=14).await;
    assert_eq!(
        effects(&fixture, aggregate, 14).await,
        (1..=14).collect::<Vec<_>>()
    );
    assert_no_duplicates(&fixture).await;
}

/// A database from before the migration stores no filters: the consumer's filter at the broker is used.
#[tokio::test]
async fn a_consumer_from_before_the_migration_catches_up_too() {
    let (mut fixture, aggregate) = with_passed_events().await;
    let superuser = fixture.database.superuser().await;
    superuser
        .execute("update events.consumer set subjects = null")
        .await
        .unwrap();
    consume(&mut fixture, &[SUBJECT, GAINED]);
    assert_eq!(
        effects(&fixture, aggregate, 10).await,
        (1..=10).collect::<Vec<_>>()
    );
    assert_no_duplicates(&fixture).await;
}

#[tokio::test]
async fn the_migration_records_up_to_when_an_earlier_inbox_may_have_been_pruned() {
    let server = Postgres::shared().await;
    let database = server.database("order").await;
    database.migrate(&["chassis"]).await;
    database.migrate_some("events", ..8).await;
    let superuser = database.superuser().await;
    superuser
        .execute(
            "insert into events.consumer (name) values ('c');
             insert into events.inbox (consumer, event_id, received_at)
             values ('c', gen_random_uuid(), now() - interval '9 days'), ('c', gen_random_uuid(), now())",
        )
        .await
        .unwrap();
    database.migrate_some("events", 8..).await;
    let until = "select extract(day from now() - forgotten_until)::bigint from events.consumer";
    assert_eq!(database.count(until).await, 9);
    superuser
        .execute("delete from events.inbox where received_at > now() - interval '1 day'")
        .await
        .unwrap();
    assert_eq!(database.count(until).await, 0);
}

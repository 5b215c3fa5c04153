//! Shared by scenarios and benches of the event backbone: the schema, settings and events of a service, and a
//! handler that records its effects.

use std::str::FromStr;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, PullConsumer, pull},
};
use events::{Delivery, Event, Handler, HandlerError, Meta, Settings};
use futures_util::StreamExt as _;
use proto::order::v1::OrderConfirmed;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::{Database, Nats};

/// Facility of every event.
pub const FACILITY: &str = "al-noor";

/// Name of the consumer that records effects.
pub const CONSUMER: &str = "order-recorder";

/// Subject of that consumer.
pub const SUBJECT: &str = "evt.order.order.confirmed";

/// Creates the backbone's tables in a fresh database of the service `order`, and the table `effect`, where
/// [`Recorder`] writes.
pub async fn prepare_database(database: &Database) {
    database.migrate(&["chassis", "events"]).await;
    let effect = "create table effect (id bigint generated always as identity, event_id uuid primary key,
                      aggregate_id uuid not null, version bigint not null,
                      at timestamptz not null default clock_timestamp());
                  grant select, insert on effect to order_app";
    let owner = database.owner().await;
    owner.execute(effect).await.expect("the table is new");
}

/// Settings with short times, so that a scenario with five attempts and a lease ends quickly. `nats` is the
/// broker's URL, `monitoring` that of its monitoring page.
pub fn settings(nats: &str, monitoring: &str) -> Settings {
    let mut settings = Settings {
        servers: vec![nats.into()],
        monitor_url: Some(monitoring.into()),
        events_max_bytes: 64 << 20,
        ..Settings::default()
    };
    settings.relay.poll_ms = 20;
    settings.relay.lease_ms = 1_000;
    settings.consumer.backoff_ms = 20;
    settings.consumer.max_backoff_ms = 100;
    settings.consumer.lease_ms = 1_000;
    assert_eq!(settings.check(), []);
    settings
}

/// An `order.v1.OrderConfirmed` event.
pub fn event(aggregate: Uuid, version: i64) -> Event {
    let meta = Meta {
        facility: FACILITY.into(),
        aggregate_id: aggregate,
        version,
        saga_id: None,
        causation_id: None,
    };
    Event::new(
        &OrderConfirmed {
            order_id: aggregate.to_string(),
        },
        meta,
    )
}

/// Begins a transaction of [`FACILITY`] in one round trip, as the services do.
///
/// # Errors
/// When the database is unavailable.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let statement = format!("begin; select set_config('weft.facility', '{FACILITY}', true)");
    pool.begin_with(AssertSqlSafe(statement)).await
}

/// Appends events in one transaction.
///
/// # Errors
/// When the database is unavailable. The events may or may not be stored then.
pub async fn append(pool: &PgPool, events: &[Event]) -> Result<(), events::Error> {
    let mut tx = begin(pool).await?;
    events::append(&mut tx, events).await?;
    tx.commit().await?;
    Ok(())
}

/// Inserts the effect, then runs the scenario's check before the commit.
pub struct Recorder<F>(pub F);

impl<F> Handler for Recorder<F>
where
    F: Fn(&Delivery) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        delivery.decode::<OrderConfirmed>()?;
        sqlx::query("insert into effect (event_id, aggregate_id, version) values ($1, $2, $3)")
            .bind(delivery.id)
            .bind(delivery.aggregate_id)
            .bind(delivery.version)
            .execute(tx)
            .await?;
        (self.0)(delivery)
    }
}

/// An event as it is stored in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    pub id: Uuid,
    pub aggregate: Uuid,
    pub version: i64,
}

/// Reads all events of the stream in stream order.
///
/// # Panics
/// When the stream does not exist or ends before its last message was read.
pub async fn published(nats: &Nats) -> Vec<Published> {
    let jetstream = jetstream::new(nats.client().await);
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        filter_subject: SUBJECT.into(),
        headers_only: true,
        ..pull::Config::default()
    };
    let consumer: PullConsumer = jetstream
        .create_consumer_on_stream(config, "EVENTS")
        .await
        .expect("the stream is there");
    let mut left = consumer.cached_info().num_pending;
    let mut messages = consumer.messages().await.expect("the broker is up");
    let mut published = Vec::new();
    while left > 0 {
        let message = messages.next().await.expect("there are more");
        let message = message.expect("the broker is up");
        left = message.info().expect("it comes from a stream").pending;
        published.push(Published {
            id: header(&message, "ce-id"),
            aggregate: header(&message, "ce-partitionkey"),
            version: header(&message, "ce-sequence"),
        });
    }
    published
}

fn header<T: FromStr>(message: &jetstream::Message, name: &str) -> T {
    let value = message.headers.as_ref().and_then(|headers| headers.get(name));
    let value = value.and_then(|value| value.as_str().parse().ok());
    value.unwrap_or_else(|| panic!("{name} is missing or unreadable"))
}

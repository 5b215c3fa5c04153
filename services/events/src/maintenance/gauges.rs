//! Gauges for alerts: how much waits, and for how long.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use async_nats::jetstream::stream::Info;
use opentelemetry::{KeyValue, global, metrics::Gauge};
use sqlx::PgPool;

use super::positions;
use crate::{Bus, Error, lag, streams};

/// A fuller stream is logged as a warning. Alerts have thresholds of their own.
const NEARLY_FULL: f64 = 0.8;

pub(super) struct Gauges {
    outbox_depth: Gauge<u64>,
    outbox_age: Gauge<f64>,
    dead: Gauge<u64>,
    dead_age: Gauge<f64>,
    pending: Gauge<u64>,
    unacknowledged: Gauge<u64>,
    lag: Gauge<f64>,
    missed: Gauge<u64>,
    held: Gauge<u64>,
    fill: Gauge<f64>,
    /// The streams for which a warning was logged.
    nearly_full: Mutex<BTreeSet<&'static str>>,
}

impl Gauges {
    pub(super) fn new() -> Self {
        let meter = global::meter("events");
        let count = |name, about, unit| {
            meter
                .u64_gauge(name)
                .with_description(about)
                .with_unit(unit)
                .build()
        };
        let seconds = |name, about| {
            meter
                .f64_gauge(name)
                .with_description(about)
                .with_unit("s")
                .build()
        };
        Self {
            outbox_depth: count("weft.outbox.depth", "Events that wait to be published", "{event}"),
            outbox_age: seconds(
                "weft.outbox.age",
                "Age of the oldest event that waits to be published",
            ),
            dead: count(
                "weft.dead_letter.open",
                "Dead letters that wait for an operator",
                "{event}",
            ),
            dead_age: seconds("weft.dead_letter.age", "Age of the oldest open dead letter"),
            pending: count(
                "weft.consumer.pending",
                "Events not delivered to a consumer yet",
                "{event}",
            ),
            unacknowledged: count(
                "weft.consumer.unacknowledged",
                "Events delivered to a consumer and not acknowledged",
                "{event}",
            ),
            lag: seconds(
                "weft.consumer.lag",
                "Age of the oldest event that a consumer has not acknowledged",
            ),
            missed: count(
                "weft.consumer.missed",
                "1: events left the stream before the consumer had acknowledged them",
                "{consumer}",
            ),
            held: count(
                "weft.outbox.held",
                "Messages that the broker refuses, by the reason",
                "{message}",
            ),
            fill: meter
                .f64_gauge("weft.stream.fill")
                .with_description("Used fraction of a stream's max_bytes")
                .with_unit("1")
                .build(),
            nearly_full: Mutex::default(),
        }
    }

    pub(super) async fn observe(&self, bus: &Bus, pool: &PgPool) -> Result<(), Error> {
        self.observe_outbox(pool).await?;
        self.observe_dead_letters(pool).await?;
        let consumers = sqlx::query_scalar!("select name from events.consumer")
            .fetch_all(pool)
            .await?;
        if !bus.is_ready() {
            return Ok(());
        }
        let jetstream = bus.jetstream();
        self.observe_fill(
            streams::DEAD_LETTERS,
            streams::find(&jetstream, streams::DEAD_LETTERS).await?,
        );
        let Some(stream) = streams::find(&jetstream, streams::EVENTS).await? else {
            return Ok(());
        };
        for consumer in consumers {
            self.observe_consumer(bus, pool, &consumer, &stream).await?;
        }
        self.observe_fill(streams::EVENTS, Some(stream));
        Ok(())
    }

    async fn observe_outbox(&self, pool: &PgPool) -> Result<(), Error> {
        let outbox = sqlx::query!(
            r#"select depth as "depth!", coalesce(extract(epoch from now() - since), 0)::float8 as "age!"
               from events.outbox_depth()"#,
        )
        .fetch_one(pool)
        .await?;
        let held = sqlx::query!(
            r#"select k.code as "code!", coalesce(h.held, 0) as "held!"
               from unnest(array['TOO_LARGE', 'REFUSED', 'NOT_PERMITTED']) k (code)
               left join events.held_depth() h on h.code = k.code"#,
        )
        .fetch_all(pool)
        .await?;
        for row in held {
            let labels = [KeyValue::new("error.type", row.code)];
            self.held.record(row.held.unsigned_abs(), &labels);
        }
        self.outbox_depth.record(outbox.depth.unsigned_abs(), &[]);
        self.outbox_age.record(outbox.age.max(0.0), &[]);
        Ok(())
    }

    async fn observe_dead_letters(&self, pool: &PgPool) -> Result<(), Error> {
        let dead = sqlx::query!(
            r#"select c.name as "consumer!", k.class as "class!", coalesce(d.open, 0) as "open!",
                   coalesce(d.oldest_seconds, 0) as "oldest_seconds!"
               from events.consumer c
               cross join unnest(array['permanent', 'schema', 'crash', 'exhausted']) k (class)
               left join events.dead_letter_depth() d on d.consumer = c.name and d.error_class = k.class"#,
        )
        .fetch_all(pool)
        .await?;
        for row in dead {
            let labels = [
                KeyValue::new("messaging.consumer.group.name", row.consumer),
                KeyValue::new("error.type", row.class),
            ];
            self.dead.record(row.open.unsigned_abs(), &labels);
            self.dead_age.record(row.oldest_seconds, &labels);
        }
        Ok(())
    }

    fn observe_fill(&self, name: &'static str, stream: Option<Info>) {
        let Some(stream) = stream.filter(|stream| stream.config.max_bytes > 0) else {
            return;
        };
        let fill = stream.state.bytes as f64 / stream.config.max_bytes as f64;
        self.fill
            .record(fill, &[KeyValue::new("messaging.destination.name", name)]);
        // DEAD_LETTERS discards its oldest messages when it is full, so it needs no warning.
        let mut warned = self.nearly_full.lock().unwrap_or_else(PoisonError::into_inner);
        if fill < NEARLY_FULL || name != streams::EVENTS {
            warned.remove(name);
        } else if warned.insert(name) {
            tracing::warn!(
                stream = name,
                fill,
                max_bytes = stream.config.max_bytes,
                "the stream is nearly full; a full stream refuses events, and they wait in the outbox"
            );
        }
    }

    async fn observe_consumer(
        &self,
        bus: &Bus,
        pool: &PgPool,
        name: &str,
        stream: &Info,
    ) -> Result<(), Error> {
        // The consumer may not exist on the broker yet.
        let Some(found) = lag::measure(bus, name).await else {
            return Ok(());
        };
        let missed = positions::record(bus, pool, name, &found, stream).await?;
        let labels = [
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.consumer.group.name", name.to_owned()),
        ];
        self.pending.record(found.pending, &labels);
        self.unacknowledged.record(found.unacknowledged, &labels);
        self.missed.record(u64::from(missed), &labels);
        self.lag
            .record(found.age.unwrap_or_default().as_secs_f64(), &labels);
        Ok(())
    }
}

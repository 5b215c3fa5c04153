//! What alarms are made of: how much waits, and for how long.

use opentelemetry::{KeyValue, global, metrics::Gauge};
use sqlx::PgPool;

use crate::{Bus, Error, lag};

pub(super) struct Gauges {
    outbox_depth: Gauge<u64>,
    outbox_age: Gauge<f64>,
    dead: Gauge<u64>,
    dead_age: Gauge<f64>,
    pending: Gauge<u64>,
    unacknowledged: Gauge<u64>,
    lag: Gauge<f64>,
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
                "Events that a consumer has not been given yet",
                "{event}",
            ),
            unacknowledged: count(
                "weft.consumer.unacknowledged",
                "Events that a consumer has in hand",
                "{event}",
            ),
            lag: seconds(
                "weft.consumer.lag",
                "Age of the oldest event that a consumer has not acknowledged",
            ),
        }
    }

    pub(super) async fn observe(&self, bus: &Bus, pool: &PgPool) -> Result<(), Error> {
        self.observe_outbox(pool).await?;
        self.observe_dead_letters(pool).await?;
        let consumers = sqlx::query_scalar!("select name from events.consumer")
            .fetch_all(pool)
            .await?;
        for consumer in consumers {
            self.observe_consumer(bus, &consumer).await;
        }
        Ok(())
    }

    async fn observe_outbox(&self, pool: &PgPool) -> Result<(), Error> {
        let outbox = sqlx::query!(
            r#"select depth as "depth!", coalesce(extract(epoch from now() - since), 0)::float8 as "age!"
               from events.outbox_depth()"#,
        )
        .fetch_one(pool)
        .await?;
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

    async fn observe_consumer(&self, bus: &Bus, name: &str) {
        // The broker may not have it yet.
        let Some(found) = lag::of(bus, name).await else {
            return;
        };
        let labels = [
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.consumer.group.name", name.to_owned()),
        ];
        self.pending.record(found.pending, &labels);
        self.unacknowledged.record(found.unacknowledged, &labels);
        self.lag
            .record(found.age.unwrap_or_default().as_secs_f64(), &labels);
    }
}

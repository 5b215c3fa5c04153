//! The stream is a copy of the event log. What it lacks is published again.

use std::{collections::HashSet, time::Duration};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use futures_util::StreamExt as _;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Bus, Error, streams};

/// Events read from the log at once.
const PAGE: i32 = 5_000;

/// Missing events that one report names; a further audit finds the rest.
const MOST_MISSING: usize = 100_000;

/// The messages of an event may carry a broker's time that differs from the log's by this much.
const CLOCK_SKEW: time::Duration = time::Duration::minutes(5);

/// Compares a service's event log with the stream.
pub struct Audit {
    bus: Bus,
    pool: PgPool,
}

/// What an audit found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events in the log.
    pub logged: u64,
    /// Of those, events that still wait to be published.
    pub pending: u64,
    /// Events that are neither in the stream nor on their way, at most 100,000, in the order of the log.
    pub missing: Vec<Uuid>,
    since: Option<OffsetDateTime>,
}

impl Audit {
    /// `pool` is the service's own database, as the role that serves.
    pub fn new(bus: &Bus, pool: &PgPool) -> Self {
        Self {
            bus: bus.clone(),
            pool: pool.clone(),
        }
    }

    /// Looks for events of the last `window` that the stream lacks. A window longer than the stream's own
    /// `events_max_age_days` is cut to it: older events have left the stream rightly.
    ///
    /// # Errors
    /// When the database or the broker is away.
    pub async fn compare(&self, window: Duration) -> Result<Report, Error> {
        let kept = self.bus.settings().stream_age();
        let since = OffsetDateTime::now_utc() - window.min(kept);
        // In this order: what the log calls published is in the stream before that is read.
        let acknowledged = self.acknowledged(since).await?;
        let pending = self.pending(since).await?;
        let published = self.published(since - CLOCK_SKEW).await?;
        let missing = acknowledged.iter().filter(|id| !published.contains(id));
        Ok(Report {
            logged: acknowledged.len() as u64 + pending,
            pending,
            missing: missing.copied().take(MOST_MISSING).collect(),
            since: Some(since),
        })
    }

    /// Publishes again what the report found missing, and returns how many that are. Consumers that know an event
    /// already give it no second effect.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn republish(&self, report: &Report) -> Result<u64, Error> {
        let queued = report.requeue(&mut *self.pool.acquire().await?).await?;
        self.bus.outbox().wake();
        Ok(queued)
    }

    /// The events that the broker has acknowledged.
    async fn acknowledged(&self, since: OffsetDateTime) -> Result<Vec<Uuid>, Error> {
        let until = OffsetDateTime::now_utc() + CLOCK_SKEW;
        let mut after = (since, Uuid::nil());
        let mut acknowledged = Vec::new();
        loop {
            let page = sqlx::query!(
                r#"select id as "id!", occurred_at as "occurred_at!" from events.log_page($1, $2, $3, $4)"#,
                after.0,
                after.1,
                until,
                PAGE,
            )
            .fetch_all(&self.pool)
            .await?;
            let Some(last) = page.last() else {
                return Ok(acknowledged);
            };
            after = (last.occurred_at, last.id);
            acknowledged.extend(page.into_iter().map(|row| row.id));
        }
    }

    async fn pending(&self, since: OffsetDateTime) -> Result<u64, Error> {
        let count = sqlx::query_scalar!(r#"select events.pending_since($1) as "count!""#, since);
        Ok(count.fetch_one(&self.pool).await?.unsigned_abs())
    }

    /// The ids of this service's events in the stream, read from the headers alone.
    async fn published(&self, since: OffsetDateTime) -> Result<HashSet<Uuid>, Error> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartTime { start_time: since },
            ack_policy: AckPolicy::None,
            filter_subject: format!("evt.{}.>", self.bus.service()),
            headers_only: true,
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
        };
        let jetstream = self.bus.jetstream();
        let consumer: PullConsumer = jetstream
            .create_consumer_on_stream(config, streams::EVENTS)
            .await
            .map_err(Error::broker)?;
        let mut ids = HashSet::new();
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.map_err(Error::broker)?;
        while left > 0 {
            let Some(message) = messages.next().await else {
                break;
            };
            let message = message.map_err(Error::broker)?;
            left = message.info().map_err(Error::broker)?.pending;
            let id = message.headers.as_ref().and_then(|headers| headers.get("ce-id"));
            ids.extend(id.and_then(|id| id.as_str().parse::<Uuid>().ok()));
        }
        Ok(ids)
    }
}

impl Report {
    /// Makes what is missing pending again.
    pub(crate) async fn requeue(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        let Some(since) = self.since.filter(|_| !self.missing.is_empty()) else {
            return Ok(0);
        };
        let queued = sqlx::query_scalar!(
            r#"select events.requeue($1, $2) as "queued!""#,
            since,
            &self.missing
        );
        Ok(queued.fetch_one(connection).await?.unsigned_abs())
    }
}

/// When the broker has come back empty, publishes the log again before anything newer: consumers then see every
/// aggregate's events in order, and the inbox drops what had taken effect. Returns how many events are queued.
pub(crate) async fn after_loss(bus: &Bus, pool: &PgPool) -> Result<u64, Error> {
    let stream = bus
        .jetstream()
        .get_stream(streams::EVENTS)
        .await
        .map_err(Error::broker)?;
    let created = stream.cached_info().created;
    // PostgreSQL keeps microseconds.
    let created = created
        .replace_nanosecond(created.nanosecond() / 1_000 * 1_000)
        .map_err(Error::broker)?;
    let mut tx = chassis::postgres::begin_with(pool, "begin").await?;
    // The other relays of this service wait here, and then find the work done. It may take a while.
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtext('events.stream')), set_config('statement_timeout', '0', true)"
    )
    .fetch_one(&mut *tx)
    .await?;
    let known = sqlx::query_scalar!(
        "select created_at from events.stream where name = $1",
        streams::EVENTS
    );
    let known = known.fetch_optional(&mut *tx).await?;
    if known == Some(created) {
        return Ok(0);
    }
    sqlx::query!(
        "insert into events.stream (name, created_at) values ($1, $2)
         on conflict (name) do update set created_at = excluded.created_at",
        streams::EVENTS,
        created,
    )
    .execute(&mut *tx)
    .await?;
    let mut queued = 0;
    if known.is_some() {
        let since = OffsetDateTime::now_utc() - bus.settings().stream_age();
        queued = sqlx::query_scalar!(r#"select events.requeue($1, null) as "queued!""#, since)
            .fetch_one(&mut *tx)
            .await?;
        tracing::warn!(
            queued,
            "the broker came back without its stream; the event log is published again"
        );
    }
    tx.commit().await?;
    Ok(queued.unsigned_abs())
}

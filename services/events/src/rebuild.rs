//! The audit of the stream against the event log. Events that the stream lacks are published again.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Bus, Error, comparison::Comparison, streams};

/// Events made pending again by one statement.
const PAGE: i32 = 5_000;

/// Compares a service's event log with the stream.
pub struct Audit {
    bus: Bus,
    pool: PgPool,
}

/// The result of an audit.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The number of events in the log.
    pub logged: u64,
    /// Of those, events that wait to be published, among the last 100,000 that wait.
    pub pending: u64,
    /// Events that are neither in the stream nor waiting to be published, at most 100,000, in the order of the
    /// log.
    pub missing: Vec<Uuid>,
    /// When each of them happened.
    occurred: Vec<OffsetDateTime>,
}

impl Audit {
    /// `pool` is the service's own database, as the role that serves.
    pub fn new(bus: &Bus, pool: &PgPool) -> Self {
        Self {
            bus: bus.clone(),
            pool: pool.clone(),
        }
    }

    /// Compares the events of the last `window` with the stream. A window longer than the stream's own
    /// `events_max_age_days` is shortened to it, since older events have left the stream by age.
    ///
    /// # Errors
    /// When the database or the broker is unavailable.
    pub async fn compare(&self, window: Duration) -> Result<Report, Error> {
        self.compare_since(window.min(self.bus.settings().stream_age()))
            .await
    }

    /// The same for as long as consumers remember effects, so events that have left the stream by age count as
    /// missing.
    pub(crate) async fn compare_beyond_stream_age(&self, window: Duration) -> Result<Report, Error> {
        let remembered = Duration::from_secs(86_400) * self.bus.settings().inbox_kept_days;
        self.compare_since(window.min(remembered)).await
    }

    async fn compare_since(&self, window: Duration) -> Result<Report, Error> {
        let since = OffsetDateTime::now_utc() - window;
        let mut comparison = Comparison::new(&self.bus, &self.pool, since).await?;
        comparison.run().await?;
        let pending = self.pending(since).await?;
        let logged = comparison.logged() + pending;
        let missing = comparison.missing();
        Ok(Report {
            logged,
            pending,
            missing: missing.iter().map(|(_, id)| *id).collect(),
            occurred: missing.into_iter().map(|(at, _)| at).collect(),
        })
    }

    /// Publishes the report's missing events again, and returns their number. Consumers ignore events that have
    /// taken effect.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn republish(&self, report: &Report) -> Result<u64, Error> {
        let queued = report.requeue(&mut *self.pool.acquire().await?).await?;
        self.bus.outbox().wake();
        Ok(queued)
    }

    async fn pending(&self, since: OffsetDateTime) -> Result<u64, Error> {
        let count = sqlx::query_scalar!(r#"select events.pending_since($1) as "count!""#, since);
        Ok(count.fetch_one(&self.pool).await?.unsigned_abs())
    }
}

impl Report {
    /// Makes the missing events pending again.
    pub(crate) async fn requeue(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        let page = PAGE.unsigned_abs() as usize;
        let mut queued = 0;
        for (ids, occurred) in self.missing.chunks(page).zip(self.occurred.chunks(page)) {
            let query = sqlx::query_scalar!(
                r#"select events.requeue_events($1, $2) as "queued!""#,
                ids,
                occurred,
            );
            queued += query.fetch_one(&mut *connection).await?.unsigned_abs();
        }
        Ok(queued)
    }
}

/// The progress of republishing a lost stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// A page of the log is pending again; there are more.
    InProgress,
    /// There is nothing left to do.
    Done,
}

/// When the broker has come back without its stream, makes the log pending again before anything newer is
/// published. Consumers then receive every aggregate's events in order, and the inbox drops those that had taken
/// effect. The log is read by pages, each in a transaction of its own; the next call continues after the last
/// page.
pub(crate) async fn republish_after_loss(bus: &Bus, pool: &PgPool) -> Result<Rebuild, Error> {
    let stream = bus
        .jetstream()
        .get_stream(streams::EVENTS)
        .await
        .map_err(Error::broker)?;
    let created = streams::created(stream.cached_info());
    let mut tx = chassis::postgres::begin_with(pool, "begin").await?;
    // The other relays of this service wait here, and then continue with it.
    sqlx::query!("select pg_advisory_xact_lock(hashtext('events.stream'))")
        .fetch_one(&mut *tx)
        .await?;
    let known = sqlx::query!(
        "select created_at, rebuilding_since is not null as \"rebuilding!\" from events.stream where name = $1",
        streams::EVENTS
    );
    let known = known.fetch_optional(&mut *tx).await?;
    let lost = known.as_ref().is_some_and(|known| known.created_at != created);
    if known.as_ref().is_some_and(|known| !lost && !known.rebuilding) {
        return Ok(Rebuild::Done);
    }
    if known.is_none() || lost {
        let since = OffsetDateTime::now_utc() - bus.settings().stream_age();
        sqlx::query!(
            "insert into events.stream (name, created_at) values ($1, $2)
             on conflict (name) do update
             set created_at = excluded.created_at, rebuilding_since = now(), rebuilt_at = $3, rebuilt_id = $4",
            streams::EVENTS,
            created,
            since,
            Uuid::nil(),
        )
        .execute(&mut *tx)
        .await?;
    }
    if known.is_none() {
        tx.commit().await?;
        return Ok(Rebuild::Done);
    }
    if lost {
        tracing::warn!("the broker came back without its stream; the event log is published again");
    }
    let rebuild = requeue_page(&mut tx).await?;
    tx.commit().await?;
    Ok(rebuild)
}

async fn requeue_page(tx: &mut PgConnection) -> Result<Rebuild, Error> {
    let page = sqlx::query!(
        r#"select p.last_at as "last_at!", p.last_id as "last_id!", p.queued as "queued!"
           from events.stream s cross join lateral events.requeue_page(s.rebuilt_at, s.rebuilt_id, $2) p
           where s.name = $1"#,
        streams::EVENTS,
        PAGE,
    );
    let Some(page) = page.fetch_optional(&mut *tx).await? else {
        sqlx::query!(
            "update events.stream set rebuilding_since = null where name = $1",
            streams::EVENTS
        )
        .execute(tx)
        .await?;
        tracing::warn!("the whole event log is pending again");
        return Ok(Rebuild::Done);
    };
    sqlx::query!(
        "update events.stream set rebuilt_at = $2, rebuilt_id = $3 where name = $1",
        streams::EVENTS,
        page.last_at,
        page.last_id,
    )
    .execute(tx)
    .await?;
    tracing::debug!(queued = page.queued, "a page of the event log is pending again");
    Ok(Rebuild::InProgress)
}

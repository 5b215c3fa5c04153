use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    Bus, Error,
    operators::{progress, runs},
};

mod advisories;
mod gauges;
mod positions;

const MINUTE: Duration = Duration::from_secs(60);

/// Inbox rows deleted by one statement, so that pruning does not hold locks for long.
const PRUNE_BATCH: i64 = 5_000;

/// Dead letters deleted by one statement. They are larger and have rows in other tables.
const DEAD_LETTER_BATCH: i32 = 500;

/// Operators' records checked by one statement.
const ACTION_BATCH: i32 = 5_000;

/// The most pages of operators' records checked in one run. Records of dead letters that still exist are kept,
/// however many they are, and the next run continues after them.
const MAX_PAGES_PER_RUN: usize = 100;

/// The time and the id of the last of the operators' records that was checked. `None`: the next run starts with
/// the oldest.
type Cursor = Mutex<Option<(OffsetDateTime, i64)>>;

/// Consecutive failures are logged as a warning once they have lasted this long.
const WARN_AFTER: Duration = Duration::from_secs(15);

/// Days for which the log's partitions are created ahead.
const DAYS_AHEAD: i32 = 7;

/// Periodic work: partitions, retention, replays of groups, messages that the broker stopped delivering, and the
/// gauges. Every replica may run it.
pub struct Maintenance {
    bus: Bus,
    pool: PgPool,
}

impl Maintenance {
    /// `pool` is the service's own database, as the role that serves.
    pub fn new(bus: &Bus, pool: &PgPool) -> Self {
        Self {
            bus: bus.clone(),
            pool: pool.clone(),
        }
    }

    /// Runs until `shutdown`. Failed work is repeated at its next time.
    ///
    /// # Errors
    /// None at present; the signature is that of every supervised task.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let gauges = gauges::Gauges::new();
        let replay_cursor = runs::Cursor::default();
        let cursor = Cursor::default();
        let work = async {
            tokio::join!(
                run_every(10 * MINUTE, "partitions", || self.maintain_partitions()),
                run_every(MINUTE, "inbox retention", || self.prune_inbox()),
                run_every(MINUTE, "dead letter retention", || self.prune_dead_letters()),
                run_every(10 * MINUTE, "operators' records", || self.prune_actions(&cursor)),
                run_every(10 * MINUTE, "failure retention", || self.prune_failures()),
                run_every(progress::TICK, "replays", || self.advance_replays(&replay_cursor)),
                run_every(Duration::from_secs(5), "gauges", || gauges
                    .observe(&self.bus, &self.pool)),
                run_every(Duration::from_secs(5), "advisories", || advisories::process(
                    &self.bus, &self.pool
                )),
            );
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        Ok(())
    }

    async fn maintain_partitions(&self) -> Result<(), Error> {
        let kept = i32::try_from(self.bus.settings().log_kept_days).unwrap_or(i32::MAX);
        let changed = sqlx::query!(
            r#"select events.create_partitions($1) as "made!", events.drop_partitions($2) as "dropped!""#,
            DAYS_AHEAD,
            kept,
        )
        .fetch_one(&self.pool)
        .await?;
        if changed.dropped > 0 {
            tracing::info!(
                dropped = changed.dropped,
                "old partitions of the event log were dropped"
            );
        }
        Ok(())
    }

    async fn prune_inbox(&self) -> Result<(), Error> {
        let kept = i32::try_from(self.bus.settings().inbox_kept_days).unwrap_or(i32::MAX);
        loop {
            let pruned = sqlx::query!(
                "delete from events.inbox where ctid = any(array(
                     select ctid from events.inbox where received_at < now() - make_interval(days => $1)
                     order by received_at limit $2))",
                kept,
                PRUNE_BATCH,
            )
            .execute(&self.pool)
            .await?;
            if pruned.rows_affected() < PRUNE_BATCH.unsigned_abs() {
                return Ok(());
            }
        }
    }

    /// Deletes old resolved and discarded dead letters. Open ones are kept for an operator, however old they are.
    async fn prune_dead_letters(&self) -> Result<(), Error> {
        let kept = i32::try_from(self.bus.settings().dead_letters_kept_days).unwrap_or(i32::MAX);
        loop {
            let pruned = sqlx::query_scalar!(
                r#"select events.prune_dead_letters($1, $2) as "pruned!""#,
                kept,
                DEAD_LETTER_BATCH,
            );
            if pruned.fetch_one(&self.pool).await? < DEAD_LETTER_BATCH {
                return Ok(());
            }
        }
    }

    async fn prune_actions(&self, cursor: &Cursor) -> Result<(), Error> {
        let kept = i32::try_from(self.bus.settings().operator_actions_kept_days).unwrap_or(i32::MAX);
        for _ in 0..MAX_PAGES_PER_RUN {
            let after = *cursor.lock().unwrap_or_else(PoisonError::into_inner);
            let page = sqlx::query!(
                r#"select looked as "looked!", last_at, last_id
                   from events.prune_operator_actions($1, $2, $3, $4)"#,
                kept,
                ACTION_BATCH,
                after.map(|(at, _)| at),
                after.map_or(0, |(_, id)| id),
            )
            .fetch_one(&self.pool)
            .await?;
            let full = page.looked == i64::from(ACTION_BATCH);
            *cursor.lock().unwrap_or_else(PoisonError::into_inner) =
                page.last_at.zip(page.last_id).filter(|_| full);
            if !full {
                break;
            }
        }
        Ok(())
    }

    /// Deletes failures of events that have left the stream without an outcome and will not be delivered again.
    async fn prune_failures(&self) -> Result<(), Error> {
        let kept = i32::try_from(self.bus.settings().inbox_kept_days).unwrap_or(i32::MAX);
        loop {
            let pruned = sqlx::query!(
                "delete from events.failure where ctid = any(array(
                     select ctid from events.failure where last_at < now() - make_interval(days => $1)
                     order by last_at limit $2))",
                kept,
                PRUNE_BATCH,
            )
            .execute(&self.pool)
            .await?;
            if pruned.rows_affected() < PRUNE_BATCH.unsigned_abs() {
                return Ok(());
            }
        }
    }

    async fn advance_replays(&self, cursor: &runs::Cursor) -> Result<(), Error> {
        Ok(runs::advance_all(&self.bus, &self.pool, cursor).await?)
    }
}

async fn run_every<F, R>(period: Duration, what: &'static str, mut work: F)
where
    F: FnMut() -> R,
    R: Future<Output = Result<(), Error>>,
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing: Option<Instant> = None;
    loop {
        ticks.tick().await;
        match work().await {
            Ok(()) => failing = None,
            Err(error) => {
                // At a start the database is often not available yet, and a short outage needs no warning.
                if failing.get_or_insert_with(Instant::now).elapsed() < WARN_AFTER {
                    tracing::info!(error = %error, what, "maintenance failed; it is retried");
                } else {
                    tracing::warn!(error = %error, what, "maintenance keeps failing; it is retried");
                }
                // Lets the other work run, and avoids a tight loop while the database is unavailable.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "maintenance/tests.rs"]
mod tests;

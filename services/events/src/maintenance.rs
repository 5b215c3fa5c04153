use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{Bus, Error, operators::runs};

mod advisories;
mod gauges;
mod positions;

const MINUTE: Duration = Duration::from_secs(60);

/// Inbox rows removed in one statement, so that pruning never holds locks for long.
const PRUNE_BATCH: i64 = 5_000;

/// Dead letters removed in one statement; they are larger, and have rows elsewhere.
const DEAD_LETTER_BATCH: i32 = 500;

/// Operators' records looked at in one statement.
const ACTION_BATCH: i32 = 5_000;

/// Pages of operators' records that are looked at in one turn: those about dead letters that are still there stay, however
/// many they are, and the next turn goes on behind them.
const MAX_PAGES_PER_RUN: usize = 100;

/// The last of the operators' records that were looked at: its time and its number. `None`: the next is the oldest.
type Cursor = Mutex<Option<(OffsetDateTime, i64)>>;

/// Failures in a row that last no longer than this are no warning.
const WARN_AFTER: Duration = Duration::from_secs(15);

/// Days for which the log's partitions exist ahead of time.
const DAYS_AHEAD: i32 = 7;

/// What has to be done again and again: partitions and retention, replays of groups, messages that the broker gave
/// up on, and the gauges. Every replica may run it.
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

    /// Runs until `shutdown`; what fails is tried again at its next turn.
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
                run_every(runs::TICK, "replays", || self.advance_replays(&replay_cursor)),
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
                "old days of the event log were dropped"
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

    /// The settled ones; the open ones wait for an operator however old they are.
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

    /// Of events that have left the stream without an end, and will never be delivered again.
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
                // At a start the database is often not there yet, and a restart of it is nothing to worry about.
                if failing.get_or_insert_with(Instant::now).elapsed() < WARN_AFTER {
                    tracing::info!(error = %error, what, "upkeep waits; it is tried again");
                } else {
                    tracing::warn!(error = %error, what, "upkeep failed; it is tried again");
                }
                // Not before the others have had their turn, and not in a tight loop while the database is away.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "maintenance/tests.rs"]
mod tests;

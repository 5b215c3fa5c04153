//! Deletes old rows, a page at a time, in the background.

use std::time::Duration;

use opentelemetry::{KeyValue, metrics::Counter};
use sqlx::{AssertSqlSafe, PgPool, postgres::types::PgInterval};
use tokio_util::sync::CancellationToken;

use crate::{Tasks, status};

/// Rows that one statement examines; few enough to hold locks only briefly.
const PAGE: i32 = 1_000;

/// Which rows of a table are deleted, and when.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The table, for metrics and log lines: `chassis.audit`.
    pub table: &'static str,
    /// A function `(kept interval, after text, at_most integer) returns table (deleted bigint, upto text)`. It
    /// examines `at_most` rows, oldest first, from the position `after` (null: from the oldest), deletes those
    /// older than `kept`, and returns the position of the next page (null: this was the last).
    pub function: &'static str,
    /// How long rows are kept.
    pub keep: Duration,
}

/// Deletes by these rules every `interval`, until the process stops.
pub fn start(tasks: &Tasks, pool: &PgPool, interval: Duration, rules: Vec<Rule>) {
    let sweeper = Sweeper {
        pool: pool.clone(),
        rules,
        deleted: opentelemetry::global::meter("weft")
            .u64_counter("weft.retention.deleted")
            .with_description("Rows deleted because of their age")
            .with_unit("{row}")
            .build(),
        shutdown: tasks.shutdown().clone(),
    };
    tasks.spawn("retention", async move {
        sweeper.run(interval).await;
        Ok(())
    });
}

struct Sweeper {
    pool: PgPool,
    rules: Vec<Rule>,
    deleted: Counter<u64>,
    shutdown: CancellationToken,
}

impl Sweeper {
    async fn run(&self, interval: Duration) {
        let mut interval = tokio::time::interval(interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.shutdown.cancelled() => return,
            }
            for rule in &self.rules {
                // The other rules are still applied.
                if let Err(error) = self.sweep(rule).await {
                    tracing::warn!(
                        db.collection.name = rule.table,
                        error.message = status::chain(&error),
                        "deleting old rows failed; retrying in the next run"
                    );
                }
            }
        }
    }

    async fn sweep(&self, rule: &Rule) -> Result<(), sqlx::Error> {
        let keep = time::Duration::try_from(rule.keep).unwrap_or(time::Duration::MAX);
        let keep = PgInterval::try_from(keep).map_err(sqlx::Error::Encode)?;
        // Each statement is a transaction of its own.
        let page = format!("select deleted, upto from {}($1, $2, $3)", rule.function);
        let mut after: Option<String> = None;
        loop {
            let (deleted, upto): (i64, Option<String>) = sqlx::query_as(AssertSqlSafe(page.clone()))
                .bind(keep)
                .bind(after.as_deref())
                .bind(PAGE)
                .fetch_one(&self.pool)
                .await?;
            let labels = [KeyValue::new("db.collection.name", rule.table)];
            self.deleted.add(u64::try_from(deleted).unwrap_or(0), &labels);
            match upto {
                Some(place) if !self.shutdown.is_cancelled() => after = Some(place),
                _ => return Ok(()),
            }
        }
    }
}

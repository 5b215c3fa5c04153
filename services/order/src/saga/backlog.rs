//! What alarms are made of: how many sagas need a person, and how many take too long.

use std::time::Duration;

use chassis::postgres::Database;
use opentelemetry::global;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::store;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// Measures until `shutdown`. Every replica tells the same figures, those of all facilities.
pub async fn measure(database: Database, shutdown: CancellationToken) {
    let meter = global::meter("order");
    let gauge = |name, about| {
        meter
            .u64_gauge(name)
            .with_description(about)
            .with_unit("{saga}")
            .build()
    };
    let stuck = gauge("weft.saga.stuck", "Sagas that need a person");
    let overdue = gauge("weft.saga.overdue", "Sagas that should have ended by now");
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.cancelled() => return,
        }
        // A database that is down is readiness's business.
        if let Ok(backlog) = look(&database).await {
            stuck.record(backlog.stuck.unsigned_abs(), &[]);
            overdue.record(backlog.overdue.unsigned_abs(), &[]);
        }
    }
}

async fn look(database: &Database) -> Result<store::sagas::Backlog, sqlx::Error> {
    let mut tx = database.begin_system().await?;
    let backlog = store::sagas::backlog(&mut tx).await?;
    tx.commit().await?;
    Ok(backlog)
}

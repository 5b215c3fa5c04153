//! The gauges that alerts are based on: open sagas by state, their age, and how many are overdue.

use std::time::Duration;

use chassis::postgres::Database;
use opentelemetry::{
    KeyValue, global,
    metrics::{Gauge, Meter},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::State;
use crate::store::sagas::{self, OpenSagas};

/// Time between two measurements.
const INTERVAL: Duration = Duration::from_secs(5);

/// The states of a saga that has not ended.
const OPEN: [State; 4] = [State::Running, State::Waiting, State::Compensating, State::Stuck];

/// Records the gauges until `shutdown`. Every replica reports the same figures, for all facilities.
pub async fn run_metrics(database: Database, shutdown: CancellationToken) {
    let gauges = Gauges::new(&global::meter("order"));
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.cancelled() => return,
        }
        // Readiness reports a database that is down.
        if let Ok(open) = read(&database).await {
            gauges.record(&open);
        }
    }
}

async fn read(database: &Database) -> Result<Vec<OpenSagas>, sqlx::Error> {
    let mut tx = database.begin_system().await?;
    let open = sagas::count_open(&mut tx).await?;
    tx.commit().await?;
    Ok(open)
}

struct Gauges {
    sagas: Gauge<u64>,
    oldest: Gauge<f64>,
    overdue: Gauge<u64>,
}

impl Gauges {
    fn new(meter: &Meter) -> Self {
        let count = |name, about| {
            meter
                .u64_gauge(name)
                .with_description(about)
                .with_unit("{saga}")
                .build()
        };
        Self {
            sagas: count("weft.saga.open", "Sagas that have not ended, by state"),
            oldest: meter
                .f64_gauge("weft.saga.oldest")
                .with_description("Age of the oldest saga that has not ended, by state")
                .with_unit("s")
                .build(),
            overdue: count("weft.saga.overdue", "Sagas that should have ended by now"),
        }
    }

    /// A state without sagas is recorded as zero, so that alerts can end.
    fn record(&self, open: &[OpenSagas]) {
        for state in OPEN {
            let labels = [KeyValue::new("weft.saga.state", state.name())];
            let row = open.iter().find(|row| row.state == state.name());
            self.sagas
                .record(row.map_or(0, |row| row.sagas.unsigned_abs()), &labels);
            self.oldest
                .record(row.map_or(0.0, |row| row.oldest_seconds), &labels);
        }
        let overdue: i64 = open.iter().map(|row| row.overdue).sum();
        self.overdue.record(overdue.unsigned_abs(), &[]);
    }
}

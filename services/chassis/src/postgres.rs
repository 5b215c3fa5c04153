//! PostgreSQL: the pool, transactions that belong to a facility, migrations, and whether it answers.

mod clock;
mod fault;
mod migrations;
mod requirements;
mod schema;
mod settings;
mod url;
mod watch;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use clock::Clock;
pub use fault::{Fault, is_read_only};
pub use migrations::{Applied, Error as MigrationError, Migrations, migrate};
pub use requirements::unmet_requirements;
pub use schema::missing_migrations;
pub(crate) use schema::watch as watch_schema;
pub use settings::Settings;
use sqlx::{AssertSqlSafe, PgPool, Postgres, SqlSafeStr, Transaction};
use tokio::time::Instant;
use tracing::Instrument as _;
pub use url::DatabaseUrl;

use crate::{Facility, Process, idempotency::Waiters, retention};

/// The name of the dependency that [`watch`] keeps.
const DEPENDENCY: &str = "postgresql";

/// The service's database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    waiters: Arc<Waiters>,
    clock: Clock,
}

impl Database {
    /// A pool that opens its connections as they are needed: a service starts while its database is down, and is not
    /// ready until it answers. Starts watching it, and deleting old answers and audit records.
    ///
    /// # Errors
    /// When the URL is unreadable.
    pub fn connect(settings: &Settings, process: &Process) -> Result<Database, sqlx::Error> {
        let options = settings.connect_options(process.name)?;
        let outages = watch::Outages::default();
        let pool =
            watch::verify_after_outage(settings.pool_options(), &outages).connect_lazy_with(options.clone());
        let database = Database {
            pool,
            waiters: Arc::default(),
            clock: Clock::default(),
        };
        // One process has one database; a second one, in tests, is only not pruned and not audited to.
        let _ = process.database.set(database.clone());
        let dependency = process.health.dependency(DEPENDENCY);
        let shutdown = process.shutdown.clone();
        let watching = watch::watch(options, dependency, outages, database.clock.clone(), shutdown);
        process.tasks.spawn("postgresql watch", async move {
            watching.await;
            Ok(())
        });
        let settings = &process.settings;
        let rules = vec![settings.idempotency.rule(), settings.audit.rule()];
        retention::start(process, &database, process.sweep_interval(), rules);
        Ok(database)
    }

    /// Opens a transaction that sees and writes the rows of one facility, in one round trip.
    ///
    /// # Errors
    /// When no connection is to be had within the setting's time.
    pub async fn begin(&self, facility: &Facility) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.begin_for(std::iter::once(facility)).await
    }

    /// Opens a transaction that sees and writes the rows of several facilities, in one round trip. Statements join on
    /// facility and id, so that none of them reaches another's rows.
    ///
    /// # Errors
    /// When no connection is to be had within the setting's time.
    pub async fn begin_for<'a>(
        &self,
        facilities: impl Iterator<Item = &'a Facility>,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let facilities: BTreeSet<&str> = facilities.map(Facility::as_str).collect();
        // A facility's grammar has neither a quote nor a comma in it.
        let names = facilities.into_iter().collect::<Vec<_>>().join(",");
        let statement = format!("begin; select set_config('weft.facility', '{names}', true)");
        begin_with(&self.pool, AssertSqlSafe(statement)).await
    }

    /// Opens a transaction of no facility: for infrastructure tables and security-definer functions. Row-level
    /// security hides every business row from it.
    ///
    /// # Errors
    /// When no connection is to be had within the setting's time.
    pub async fn begin_system(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        begin_with(&self.pool, "begin; select set_config('weft.facility', '', true)").await
    }

    /// The pool itself.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Its clock: whatever a statement compares with `now()` is computed by it.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The answers that calls wait for.
    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}

/// Begins a transaction with `statement`, in a task of its own: sqlx loses count of a transaction whose beginning is dropped
/// half-way, and would put its connection back into the pool with the transaction open. When the caller is gone, the task
/// ends its transaction by itself. Every transaction of a service begins here.
///
/// # Errors
/// When no connection is to be had within the setting's time.
pub async fn begin_with(
    pool: &PgPool,
    statement: impl SqlSafeStr + Send + 'static,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let beginning = async move { pool.begin_with(statement).await };
    let begun = tokio::spawn(beginning.in_current_span()).await;
    begun.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// A point in time that other threads may read.
#[derive(Debug)]
pub(crate) struct SharedInstant {
    epoch: Instant,
    micros: AtomicU64,
}

impl SharedInstant {
    fn set_now(&self) {
        let micros = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros.store(micros, Ordering::Release);
    }

    /// Time passed since it was last set; `None` when it never was.
    fn elapsed(&self) -> Option<std::time::Duration> {
        let at = std::time::Duration::from_micros(self.micros.load(Ordering::Acquire));
        (!at.is_zero()).then(|| self.epoch.elapsed().saturating_sub(at))
    }
}

impl Default for SharedInstant {
    fn default() -> SharedInstant {
        SharedInstant {
            epoch: Instant::now(),
            micros: AtomicU64::new(0),
        }
    }
}

//! PostgreSQL: the pool, transactions bound to facilities, migrations, and availability.

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
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
pub use url::DatabaseUrl;

use crate::{Facility, health::Dependency, waiters::Waiters};

/// The name of the dependency whose state the database's watch reports.
pub(crate) const DEPENDENCY: &str = "postgresql";

/// The service's database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    waiters: Arc<Waiters>,
    clock: Clock,
}

impl Database {
    /// Creates a pool that connects on demand: a service starts while its database is down, and becomes ready when
    /// it is up. Also returns a future that monitors the database until `shutdown`, updates `dependency` and reads
    /// the clock.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub(crate) fn connect(
        settings: &Settings,
        service: &str,
        dependency: Dependency,
        shutdown: CancellationToken,
    ) -> Result<(Database, impl Future<Output = ()> + use<>), sqlx::Error> {
        let options = settings.connect_options(service)?;
        let outages = watch::Outages::default();
        let pool =
            watch::verify_after_outage(settings.pool_options(), &outages).connect_lazy_with(options.clone());
        let database = Database {
            pool,
            waiters: Arc::default(),
            clock: Clock::default(),
        };
        let watching = watch::watch(options, dependency, outages, database.clock.clone(), shutdown);
        Ok((database, watching))
    }

    /// Begins a transaction with access to the rows of one facility, in one round trip.
    ///
    /// # Errors
    /// When no connection becomes available within `acquire_timeout_ms`.
    pub async fn begin(&self, facility: &Facility) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.begin_for(std::iter::once(facility)).await
    }

    /// Begins a transaction with access to the rows of several facilities, in one round trip. Statements must join
    /// on facility and id, so that none reaches another facility's rows.
    ///
    /// # Errors
    /// When no connection becomes available within `acquire_timeout_ms`.
    pub async fn begin_for<'a>(
        &self,
        facilities: impl Iterator<Item = &'a Facility>,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let facilities: BTreeSet<&str> = facilities.map(Facility::as_str).collect();
        // A facility contains neither quotes nor commas.
        let names = facilities.into_iter().collect::<Vec<_>>().join(",");
        let statement = format!("begin; select set_config('weft.facility', '{names}', true)");
        begin_with(&self.pool, AssertSqlSafe(statement)).await
    }

    /// Begins a transaction without a facility: for infrastructure tables and security-definer functions.
    /// Row-level security hides all business rows from it.
    ///
    /// # Errors
    /// When no connection becomes available within `acquire_timeout_ms`.
    pub async fn begin_system(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        begin_with(&self.pool, "begin; select set_config('weft.facility', '', true)").await
    }

    /// The pool.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The database's clock. Use it for every time that a statement compares with `now()`.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The calls that wait for responses.
    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}

/// Begins a transaction with `statement`, in a task of its own: if the beginning of a transaction is dropped
/// half-way, sqlx would return the connection to the pool with the transaction open. If the caller is gone, the
/// task rolls the transaction back. Every transaction of a service begins here.
///
/// # Errors
/// When no connection becomes available within `acquire_timeout_ms`.
pub async fn begin_with(
    pool: &PgPool,
    statement: impl SqlSafeStr + Send + 'static,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let beginning = async move { pool.begin_with(statement).await };
    let begun = tokio::spawn(beginning.in_current_span()).await;
    begun.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// A point in time, shared between threads.
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

    /// Time since it was last set; `None` if it was never set.
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

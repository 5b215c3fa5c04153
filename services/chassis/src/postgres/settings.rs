//! The database's settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{
    Postgres,
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::DatabaseUrl;
use crate::Violations;

/// The database and the limits on its use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The URL that `serve` uses; its role must not have `superuser` or `bypassrls`.
    pub url: DatabaseUrl,
    /// The URL that `migrate` uses; its role owns the schema.
    pub migrate_url: DatabaseUrl,
    /// Most connections. Default 16.
    pub max_connections: u32,
    /// Connections kept open while idle. Default 1.
    pub min_connections: u32,
    /// Milliseconds that a request waits for a connection. Default 3000.
    pub acquire_timeout_ms: u64,
    /// Milliseconds that one statement may run. Default 10000.
    pub statement_timeout_ms: u64,
    /// Milliseconds that a transaction may be idle. Default 10000.
    pub idle_in_transaction_timeout_ms: u64,
    /// Milliseconds that a statement waits for a lock. Default 5000.
    pub lock_timeout_ms: u64,
}

impl Settings {
    /// The defaults of the service `name`: its database and roles on 127.0.0.1:5432.
    pub fn for_service(name: &str) -> Settings {
        let url = |role: &str| DatabaseUrl::new(format!("postgres://{name}_{role}@127.0.0.1:5432/{name}"));
        Settings {
            url: url("app"),
            migrate_url: url("owner"),
            ..Settings::default()
        }
    }

    pub(super) fn connect_options(&self, application: &str) -> Result<PgConnectOptions, sqlx::Error> {
        Ok(self.url.connect_options()?.application_name(application))
    }

    /// The limits of a session. They are set after the start, because PgBouncer rejects unknown parameters in the
    /// startup message. JIT is off: statements are short, and compiling costs more than it saves.
    fn session_limits(&self) -> String {
        format!(
            "set statement_timeout = {}; set idle_in_transaction_session_timeout = {}; set lock_timeout = {}; set jit = off",
            self.statement_timeout_ms, self.idle_in_transaction_timeout_ms, self.lock_timeout_ms
        )
    }

    pub(super) fn pool_options(&self) -> PoolOptions<Postgres> {
        let limits = self.session_limits();
        PgPoolOptions::new()
            .after_connect(move |conn, _| {
                let limits = limits.clone();
                Box::pin(async move {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(limits)).execute(conn).await?;
                    Ok(())
                })
            })
            .max_connections(self.max_connections)
            .min_connections(self.min_connections)
            .acquire_timeout(Duration::from_millis(self.acquire_timeout_ms))
            .idle_timeout(Duration::from_secs(300))
            .max_lifetime(Duration::from_secs(1800))
            // A test would cost a round trip for each transaction; `watch::verify_after_outage` tests when needed.
            .test_before_acquire(false)
    }

    pub(crate) fn check(&self, violations: &mut Violations) {
        for (field, url) in [("url", &self.url), ("migrate_url", &self.migrate_url)] {
            let readable = url.expose().starts_with("postgres") && url.connect_options().is_ok();
            violations.require(
                readable,
                field,
                "must be a URL like postgres://user@host:5432/database",
            );
        }
        violations.require(
            (1..=500).contains(&self.max_connections),
            "max_connections",
            "must be 1 to 500",
        );
        let fits = self.min_connections <= self.max_connections;
        violations.require(fits, "min_connections", "must not be more than max_connections");
        for (field, milliseconds) in [
            ("acquire_timeout_ms", self.acquire_timeout_ms),
            ("statement_timeout_ms", self.statement_timeout_ms),
            (
                "idle_in_transaction_timeout_ms",
                self.idle_in_transaction_timeout_ms,
            ),
            ("lock_timeout_ms", self.lock_timeout_ms),
        ] {
            violations.require(
                (1..=600_000).contains(&milliseconds),
                field,
                "must be 1 to 600000",
            );
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            url: DatabaseUrl::new("postgres://127.0.0.1:5432/postgres"),
            migrate_url: DatabaseUrl::new("postgres://127.0.0.1:5432/postgres"),
            max_connections: 16,
            min_connections: 1,
            acquire_timeout_ms: 3_000,
            statement_timeout_ms: 10_000,
            idle_in_transaction_timeout_ms: 10_000,
            lock_timeout_ms: 5_000,
        }
    }
}

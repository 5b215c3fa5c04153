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

/// Where the database is and how much of it is used.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// As what `serve` connects: a role without `superuser` and `bypassrls`.
    pub url: DatabaseUrl,
    /// As what `migrate` connects: the role that owns the schema.
    pub migrate_url: DatabaseUrl,
    /// Connections at most. Default 16.
    pub max_connections: u32,
    /// Connections kept open while idle. Default 1.
    pub min_connections: u32,
    /// Milliseconds that a request waits for a connection. Default 3000.
    pub acquire_timeout_ms: u64,
    /// Milliseconds that one statement may run. Default 10000.
    pub statement_timeout_ms: u64,
    /// Milliseconds that a transaction may sit idle. Default 10000.
    pub idle_in_transaction_timeout_ms: u64,
    /// Milliseconds that a statement waits for a lock. Default 5000.
    pub lock_timeout_ms: u64,
}

impl Settings {
    /// The defaults of the service called `name`: database, roles and all on 127.0.0.1:5432.
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

    /// The limits of a session, set when it begins and not in the message that opens it: PgBouncer refuses what it does not
    /// know there. Statements are short: compiling one costs more than it saves.
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
            // A test costs every transaction a round trip; see `watch::verify_after_outage` for when it is worth it.
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

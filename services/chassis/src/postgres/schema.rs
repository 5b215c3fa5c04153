//! Checks whether the database has the schema that this version of the service needs.

use std::{collections::HashSet, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    Settings,
    migrations::{Applied, Migrations, chassis, version_table},
    requirements,
};
use crate::{Process, health::Dependency};

/// Interval of the check.
const INTERVAL: Duration = Duration::from_millis(500);

/// PostgreSQL's codes for a database without migrations: missing table, missing schema, or no permission.
const NOT_MIGRATED: [&str; 3] = ["42P01", "3F000", "42501"];

/// The migrations that the database lacks, by set; empty when it is up to date. Reads as the serving role.
///
/// # Errors
/// When the database cannot be reached or rejects a statement.
pub async fn missing_migrations(
    settings: &Settings,
    sets: &[Migrations],
) -> Result<Vec<Applied>, sqlx::Error> {
    let mut conn = PgConnection::connect_with(&settings.url.connect_options()?).await?;
    let mut missing = Vec::new();
    for set in std::iter::once(&chassis()).chain(sets) {
        let applied = applied(&mut conn, set.name).await?;
        let needed = set.migrator.iter().map(|migration| migration.version);
        let versions: Vec<i64> = needed.filter(|version| !applied.contains(version)).collect();
        if !versions.is_empty() {
            missing.push(Applied {
                name: set.name,
                versions,
            });
        }
    }
    conn.close().await?;
    Ok(missing)
}

async fn applied(conn: &mut PgConnection, set: &str) -> Result<HashSet<i64>, sqlx::Error> {
    let query = format!("select version from {} where success", version_table(set));
    match sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(conn).await {
        Ok(versions) => Ok(versions.into_iter().collect()),
        Err(sqlx::Error::Database(error))
            if error
                .code()
                .is_some_and(|code| NOT_MIGRATED.contains(&code.as_ref())) =>
        {
            Ok(HashSet::new())
        }
        Err(error) => Err(error),
    }
}

/// The migrations in the database that this build does not know, by set.
async fn unknown_migrations(settings: &Settings, sets: &[Migrations]) -> Result<Vec<Applied>, sqlx::Error> {
    let mut conn = PgConnection::connect_with(&settings.url.connect_options()?).await?;
    let mut unknown = Vec::new();
    for set in std::iter::once(&chassis()).chain(sets) {
        let known: HashSet<i64> = set.migrator.iter().map(|migration| migration.version).collect();
        let mut versions: Vec<i64> = applied(&mut conn, set.name)
            .await?
            .difference(&known)
            .copied()
            .collect();
        versions.sort_unstable();
        if !versions.is_empty() {
            unknown.push(Applied {
                name: set.name,
                versions,
            });
        }
    }
    conn.close().await?;
    Ok(unknown)
}

/// Stops the process when the database does not meet the requirements. Otherwise keeps the dependency `schema` up
/// to date: checks until the schema is complete, and again after each outage of PostgreSQL, since another server
/// may have taken over.
pub(crate) async fn watch(process: Process, settings: Settings, sets: Vec<Migrations>) {
    let dependency = process.health.dependency("schema");
    let mut check = SchemaCheck::default();
    loop {
        let away = process.health.down().iter().any(|name| name == super::DEPENDENCY);
        if away {
            check.reset();
        } else if check.due
            && let Err(unmet) = check.run(&process, &settings, &sets, &dependency).await
        {
            return process
                .tasks
                .fail(format!("the database cannot be used: {}", unmet.join("; ")));
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = process.shutdown.cancelled() => return,
        }
    }
}

/// The state of the check since PostgreSQL's last outage.
struct SchemaCheck {
    due: bool,
    warned: bool,
}

impl Default for SchemaCheck {
    fn default() -> SchemaCheck {
        SchemaCheck {
            due: true,
            warned: false,
        }
    }
}

impl SchemaCheck {
    fn reset(&mut self) {
        *self = SchemaCheck::default();
    }

    /// Returns the unmet requirements as an error. Failed queries are repeated at the next check.
    async fn run(
        &mut self,
        process: &Process,
        settings: &Settings,
        sets: &[Migrations],
        dependency: &Dependency,
    ) -> Result<(), Vec<String>> {
        let Ok(options) = settings.url.connect_options() else {
            return Ok(());
        };
        match requirements::unmet_requirements(&options).await {
            Ok(unmet) if unmet.is_empty() => {}
            Ok(unmet) => return Err(unmet),
            Err(sqlx::Error::PoolTimedOut) => {
                let why = "the database takes more than two seconds to answer, or stands behind a pooler with one session";
                dependency.down(&why);
                return Ok(());
            }
            Err(_) => return Ok(()),
        }
        match missing_migrations(settings, sets).await {
            Ok(missing) if missing.is_empty() => {
                dependency.up();
                self.due = false;
                if let Ok(unknown) = unknown_migrations(settings, sets).await
                    && !unknown.is_empty()
                {
                    tracing::warn!(
                        database.unknown = format_sets(&unknown),
                        "the database is newer than this build; it still works, because migrations only add"
                    );
                }
            }
            Ok(missing) => {
                dependency.down(&format!("the database lacks {}", format_sets(&missing)));
                if !self.warned {
                    tracing::warn!(
                        database.lacks = format_sets(&missing),
                        "the database is behind: run `{} migrate`; not ready until then",
                        process.name
                    );
                    self.warned = true;
                }
            }
            // The dependency `postgresql` reports that the database is down.
            Err(_) => {}
        }
        Ok(())
    }
}

fn format_sets(sets: &[Applied]) -> String {
    let sets: Vec<String> = sets
        .iter()
        .map(|set| format!("{} {:?}", set.name, set.versions))
        .collect();
    sets.join(", ")
}

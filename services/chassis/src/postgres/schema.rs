//! Whether the database has the schema that this version of the service needs.

use std::{collections::HashSet, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    migrations::{Applied, Migrations, chassis, version_table},
};
use crate::health::Dependency;

/// How often a database that is behind is looked at again.
const INTERVAL: Duration = Duration::from_millis(500);

/// What PostgreSQL says where nothing was ever migrated: no such table, no such schema, or no right to look.
const NEVER_MIGRATED: [&str; 3] = ["42P01", "3F000", "42501"];

/// The migrations that the database lacks, set by set; none when it is up to date. Reads as the serving role.
///
/// # Errors
/// When the database cannot be reached or refuses.
pub async fn missing(settings: &Settings, sets: &[Migrations]) -> Result<Vec<Applied>, sqlx::Error> {
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
                .is_some_and(|code| NEVER_MIGRATED.contains(&code.as_ref())) =>
        {
            Ok(HashSet::new())
        }
        Err(error) => Err(error),
    }
}

/// Reports `dependency` up as soon as the schema is there, and says once what it lacks and what to run.
pub(crate) async fn await_current(
    service: &'static str,
    settings: Settings,
    sets: Vec<Migrations>,
    dependency: Dependency,
    shutdown: CancellationToken,
) {
    let mut told = false;
    loop {
        match missing(&settings, &sets).await {
            Ok(missing) if missing.is_empty() => return dependency.up(),
            Ok(missing) if !told => {
                let lacks: Vec<String> = missing
                    .iter()
                    .map(|set| format!("{} {:?}", set.name, set.versions))
                    .collect();
                tracing::warn!(
                    database.lacks = lacks.join(", "),
                    "the database is behind: run `{service} migrate`; not ready until then"
                );
                told = true;
            }
            // That the database is down is told by its own dependency.
            Ok(_) | Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

//! Migrates the schema: several sets of migrations in one database, each with a version table of its own.

use std::{collections::HashSet, fmt, time::Duration};

use sqlx::{
    Connection, PgConnection,
    migrate::{MigrateError, Migrator},
};

use super::Settings;

/// Interval between attempts to get the migration lock.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// One set of migrations.
#[derive(Debug)]
pub struct Migrations {
    /// Its name; its versions are stored in `weft_migrations.<name>`. Lower case letters and `_`.
    pub name: &'static str,
    /// `sqlx::migrate!("../../migrations/<name>")`.
    pub migrator: Migrator,
}

/// The result for one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The set.
    pub name: &'static str,
    /// The versions that were applied now.
    pub versions: Vec<i64>,
}

/// Why the migration failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database could not be reached, or rejected a statement.
    #[error("the database cannot be used")]
    Database(#[from] sqlx::Error),
    /// A set could not be applied.
    #[error("migrations {set} failed")]
    Set {
        /// The set's name.
        set: &'static str,
        /// The error from PostgreSQL, or from the check of the applied versions.
        source: MigrateError,
    },
}

pub(super) fn chassis() -> Migrations {
    Migrations {
        name: "chassis",
        migrator: sqlx::migrate!("../../migrations/chassis"),
    }
}

/// Applies the chassis's migrations and then `sets`, in order, as the role of `migrate_url`. Grants go to the role
/// of `url`, which migrations get from `chassis.app_role()`. Applied migrations are skipped; concurrent runs wait
/// for each other.
///
/// # Errors
/// When the database cannot be reached, a migration fails (and is rolled back), or an applied one was changed.
pub async fn migrate(settings: &Settings, sets: Vec<Migrations>) -> Result<Vec<Applied>, Error> {
    let app_role = settings.url.user()?;
    let mut conn = PgConnection::connect_with(&settings.migrate_url.connect_options()?).await?;
    sqlx::query("select set_config('weft.app_role', $1, false)")
        .bind(app_role)
        .execute(&mut conn)
        .await?;
    acquire_lock(&mut conn).await?;
    drop_invalid_indexes(&mut conn).await?;
    let mut done = Vec::new();
    for set in std::iter::once(chassis()).chain(sets) {
        let name = set.name;
        let versions = apply(&mut conn, set)
            .await
            .map_err(|source| Error::Set { set: name, source })?;
        done.push(Applied { name, versions });
    }
    // The serving role checks the versions of the schema.
    sqlx::raw_sql(
        "do $$ begin
             execute format('grant usage on schema weft_migrations to %I', chassis.app_role());
             execute format('grant select on all tables in schema weft_migrations to %I', chassis.app_role());
         end $$",
    )
    .execute(&mut conn)
    .await?;
    conn.close().await?;
    Ok(done)
}

/// Waits until no other run holds the lock, which is released with the connection. It polls instead of blocking in
/// a statement, because `create index concurrently` waits for all running statements of the database.
async fn acquire_lock(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    loop {
        let free: bool =
            sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended('weft_migrations', 0))")
                .fetch_one(&mut *conn)
                .await?;
        if free {
            return Ok(());
        }
        tokio::time::sleep(LOCK_RETRY_INTERVAL).await;
    }
}

/// An interrupted `create index concurrently` leaves an invalid index, which makes the next attempt fail.
async fn drop_invalid_indexes(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let invalid: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', n.nspname, c.relname)
         from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
         where not i.indisvalid and c.relkind = 'i' and c.relowner = current_user::regrole",
    )
    .fetch_all(&mut *conn)
    .await?;
    for index in invalid {
        let drop = format!("drop index concurrently if exists {index}");
        sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut *conn).await?;
    }
    Ok(())
}

/// The table of a set's applied versions.
pub(super) fn version_table(set: &str) -> String {
    format!("weft_migrations.{set}")
}

async fn apply(conn: &mut PgConnection, set: Migrations) -> Result<Vec<i64>, MigrateError> {
    let table = version_table(set.name);
    let mut migrator = set.migrator;
    migrator.set_locking(false);
    migrator.create_schema("weft_migrations");
    migrator.dangerous_set_table_name(table.clone());
    let before = applied(conn, &table).await?;
    migrator.run_direct(None, conn, false).await?;
    let after = applied(conn, &table).await?;
    let mut new: Vec<i64> = after.difference(&before).copied().collect();
    new.sort_unstable();
    Ok(new)
}

async fn applied(conn: &mut PgConnection, table: &str) -> Result<HashSet<i64>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(HashSet::new());
    }
    let query = format!("select version from {table}");
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(query))
        .fetch_all(conn)
        .await?
        .into_iter()
        .collect())
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.versions.is_empty() {
            return write!(f, "{}: up to date", self.name);
        }
        let versions: Vec<String> = self.versions.iter().map(i64::to_string).collect();
        write!(f, "{}: applied {}", self.name, versions.join(", "))
    }
}

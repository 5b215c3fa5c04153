//! A service's requirements on its database besides the schema. Violations are permanent: the process stops, and
//! reports what to change.

use std::time::Duration;

use sqlx::{Connection, Error, PgConnection, Row, postgres::PgConnectOptions};
use tokio::time::timeout;

/// PostgreSQL 15, as `server_version_num`.
const OLDEST_VERSION: i32 = 150_000;

/// How often two sessions are compared. A pooler that shares sessions shows it at once.
const COMPARISONS: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(2);

/// The unmet requirements, as messages; empty when the service can use the database.
///
/// # Errors
/// When the database cannot be reached or rejects a statement; [`Error::PoolTimedOut`] when comparing sessions
/// takes too long.
pub async fn unmet_requirements(options: &PgConnectOptions) -> Result<Vec<String>, Error> {
    let mut conn = PgConnection::connect_with(options).await?;
    // Simple queries work with every pooler, and leave no prepared statement.
    if is_session_shared(&mut conn, options).await? {
        return Ok(vec![
            "the database is behind a pooler that shares sessions by transaction; use session pooling (pool_mode = \
             session in PgBouncer), or connect to PostgreSQL itself"
                .to_owned(),
        ]);
    }
    let row = sqlx::raw_sql(SERVER_QUERY).fetch_one(&mut conn).await?;
    let text = |column: &str| row.try_get::<String, _>(column);
    let role = text("role")?;
    let mut unmet = Vec::new();
    if text("version_num")?.parse().unwrap_or(0) < OLDEST_VERSION {
        unmet.push(format!(
            "PostgreSQL 15 or newer is needed; this is {}",
            text("version")?
        ));
    }
    if text("encoding")? != "UTF8" {
        unmet.push(format!(
            "the database's encoding must be UTF8; this is {}: create it with encoding 'UTF8' and template template0",
            text("encoding")?
        ));
    }
    if text("exempt")? == "true" {
        unmet.push(format!(
            "the role {role} of database.url is a superuser or has BYPASSRLS: row-level security would not bind it; serve \
             as a role with neither"
        ));
    }
    if let Some(table) = row.try_get::<Option<String>, _>("owned")? {
        unmet.push(format!(
            "the role {role} of database.url owns tables ({table}), or belongs to the role that does: row-level security \
             would not bind it; serve as the role <service>_app, and migrate as the owner"
        ));
    }
    conn.close().await?;
    Ok(unmet)
}

const SERVER_QUERY: &str = "select current_setting('server_version_num') as version_num,
        current_setting('server_version') as version, current_setting('server_encoding') as encoding,
        current_user::text as role, (r.rolsuper or r.rolbypassrls)::text as exempt,
        (select c.oid::regclass::text
         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
           and not r.rolsuper and pg_has_role(current_user, c.relowner, 'USAGE')
         order by c.oid limit 1) as owned
    from pg_catalog.pg_roles r where r.rolname = current_user";

/// Whether a pooler shares sessions between clients by transaction: then two open sessions have the same server
/// process, or one session has several.
async fn is_session_shared(one: &mut PgConnection, options: &PgConnectOptions) -> Result<bool, Error> {
    let mut other = PgConnection::connect_with(options).await?;
    let mut shared = false;
    for _ in 0..COMPARISONS {
        let pid = backend_pid(one).await?;
        // Takes over the server process that the other session may just have released.
        sqlx::raw_sql("begin").execute(&mut other).await?;
        let other_pid = backend_pid(&mut other).await?;
        // After a timeout the result is unknown, and a slow server is no reason to stop. A pooler with a single
        // session, which makes us wait for ourselves, looks the same; the service reports this and is not ready
        // until it is over.
        let later_pid = timeout(TIMEOUT, backend_pid(one))
            .await
            .map_err(|_| Error::PoolTimedOut)??;
        shared = other_pid == pid || later_pid != pid;
        if shared {
            break;
        }
        sqlx::raw_sql("rollback").execute(&mut other).await?;
    }
    other.close().await?;
    Ok(shared)
}

async fn backend_pid(conn: &mut PgConnection) -> Result<i64, Error> {
    let row = sqlx::raw_sql("select pg_backend_pid()::text as pid")
        .fetch_one(conn)
        .await?;
    let pid: String = row.try_get("pid")?;
    pid.parse()
        .map_err(|_| Error::Protocol("pg_backend_pid() is no number".into()))
}

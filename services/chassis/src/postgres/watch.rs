//! Monitors whether PostgreSQL is available, and reads its time, about once a second. It uses a connection of its
//! own, because a busy pool does not mean that the database is down.

use std::{future::Future, sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection, Postgres, Row as _, pool::PoolOptions, postgres::PgConnectOptions};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Clock, SharedInstant, fault};
use crate::health::Dependency;

const INTERVAL: Duration = Duration::from_secs(1);
/// Interval and timeout together stay below two seconds, the limit for readiness to drop.
const PROBE_TIMEOUT: Duration = Duration::from_millis(700);
/// Shorter while it is down, so that the process is ready again soon after.
const INTERVAL_DOWN: Duration = Duration::from_millis(250);
/// A connection that was idle for longer may have been closed by the network.
const MAX_UNVERIFIED_IDLE: Duration = Duration::from_secs(60);

/// When PostgreSQL was last down.
pub(super) type Outages = Arc<SharedInstant>;

/// Tests a pooled connection before use if it is older than the last outage, or was idle for long. A connection
/// that may hold a stale statement, or is connected to a fenced server, is closed.
pub(super) fn verify_after_outage(
    options: PoolOptions<Postgres>,
    outages: &Outages,
) -> PoolOptions<Postgres> {
    let outages = outages.clone();
    options.before_acquire(move |conn, about| {
        let dead = fault::is_invalidated(about.age);
        let unverified =
            about.idle_for > MAX_UNVERIFIED_IDLE || outages.elapsed().is_some_and(|since| about.age >= since);
        Box::pin(async move {
            if dead || !unverified {
                return Ok(!dead);
            }
            Ok(matches!(
                timeout(PROBE_TIMEOUT, query_time(conn)).await,
                Ok(Ok(_))
            ))
        })
    })
}

/// Updates `dependency` and `clock` about once a second, until `shutdown`.
pub(super) async fn watch(
    options: PgConnectOptions,
    dependency: Dependency,
    outages: Outages,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let mut conn = None;
    loop {
        match with_timeout(probe(conn.take(), &options, &clock)).await {
            Ok(open) => {
                conn = Some(open);
                dependency.up();
            }
            Err(error) => {
                outages.set_now();
                dependency.down(&error);
            }
        }
        let pause = if conn.is_some() { INTERVAL } else { INTERVAL_DOWN };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => break,
        }
    }
    if let Some(conn) = conn {
        // A connection that is only dropped is closed by the server as well.
        let _ = timeout(PROBE_TIMEOUT, conn.close()).await;
    }
}

async fn probe(
    conn: Option<PgConnection>,
    options: &PgConnectOptions,
    clock: &Clock,
) -> Result<PgConnection, sqlx::Error> {
    let mut conn = match conn {
        Some(conn) => conn,
        None => PgConnection::connect_with(options).await?,
    };
    let sent = Instant::now();
    clock.set(query_time(&mut conn).await?, sent);
    Ok(conn)
}

/// The database's time. A standby, and a primary fenced by `default_transaction_read_only`, answer queries but
/// reject writes: there this fails as a write would, with 25006.
async fn query_time(conn: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    let rows = sqlx::raw_sql(PROBE_QUERY).fetch_all(conn).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let micros: i64 = row.try_get(0)?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Fails like a write on a read-only server. Needs no table, changes nothing, and leaves no prepared statement
/// that could go stale. Its only row is the time, in microseconds since 1970.
const PROBE_QUERY: &str = "do $$ begin
    if current_setting('transaction_read_only')::boolean then
        raise read_only_sql_transaction using message =
            case when pg_is_in_recovery() then 'the server is a standby' else 'the server is read-only' end;
    end if;
end $$;
select (extract(epoch from clock_timestamp()) * 1000000)::bigint";

async fn with_timeout<T>(probing: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(PROBE_TIMEOUT, probing)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

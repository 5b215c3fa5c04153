//! Whether PostgreSQL answers, and what time it is there, asked about once a second on a connection of its own: a busy pool is
//! not a dead database.

use std::{future::Future, sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection, Postgres, Row as _, pool::PoolOptions, postgres::PgConnectOptions};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Clock, SharedInstant, fault};
use crate::health::Dependency;

const INTERVAL: Duration = Duration::from_secs(1);
/// Interval and patience together stay below the two seconds within which readiness must drop.
const PROBE_TIMEOUT: Duration = Duration::from_millis(700);
/// While down it is asked more often, so that the process is back soon after it is.
const INTERVAL_DOWN: Duration = Duration::from_millis(250);
/// A connection idle for longer may have been closed by something in between.
const MAX_UNVERIFIED_IDLE: Duration = Duration::from_secs(60);

/// When PostgreSQL was last seen to be down.
pub(super) type Outages = Arc<SharedInstant>;

/// Tests a pooled connection before use when there is a reason to doubt it: it is older than the last outage, or was
/// idle for long. One that may hold a stale statement, or leads to a server that was given up, is closed.
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

/// Keeps `dependency` and `clock` true to what PostgreSQL answers, until `shutdown`.
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
        // The server notices a connection that is merely dropped as well.
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

/// The time there. A standby, and a primary that was fenced off by `default_transaction_read_only`, answer and take no
/// write. The two fail as a write would, with 25006.
async fn query_time(conn: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    let rows = sqlx::raw_sql(PROBE_QUERY).fetch_all(conn).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let micros: i64 = row.try_get(0)?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Fails as a write would where the server takes none. It needs no table and leaves nothing behind, and no prepared
/// statement that could go stale. Its only row is the time, in microseconds since 1970.
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

//! Whether PostgreSQL answers, asked about once a second on a connection of its own: a busy pool is not a dead database.

use std::{future::Future, sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection, Postgres, pool::PoolOptions, postgres::PgConnectOptions};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::SharedInstant;
use crate::health::Dependency;

const INTERVAL: Duration = Duration::from_secs(1);
/// Interval and patience together stay below the two seconds within which readiness must drop.
const PATIENCE: Duration = Duration::from_millis(700);
/// While down it is asked more often, so that the process is back soon after it is.
const INTERVAL_DOWN: Duration = Duration::from_millis(250);
/// A connection idle for longer may have been closed by something in between.
const IDLE: Duration = Duration::from_secs(60);

/// When PostgreSQL was last seen to be down.
pub(super) type Outages = Arc<SharedInstant>;

/// Tests a pooled connection before use when there is a reason to doubt it: it is older than the last outage, or was
/// idle for long.
pub(super) fn distrusting(options: PoolOptions<Postgres>, outages: &Outages) -> PoolOptions<Postgres> {
    let outages = outages.clone();
    options.before_acquire(move |conn, about| {
        let doubtful = about.idle_for > IDLE || outages.elapsed().is_some_and(|since| about.age >= since);
        Box::pin(async move {
            if !doubtful {
                return Ok(true);
            }
            Ok(matches!(timeout(PATIENCE, conn.ping()).await, Ok(Ok(()))))
        })
    })
}

/// Keeps `dependency` true to what PostgreSQL answers, until `shutdown`.
pub(super) async fn watch(
    options: PgConnectOptions,
    dependency: Dependency,
    outages: Outages,
    shutdown: CancellationToken,
) {
    let mut conn = None;
    loop {
        match within_patience(ask(conn.take(), &options)).await {
            Ok(asked) => {
                conn = Some(asked);
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
        let _ = timeout(PATIENCE, conn.close()).await;
    }
}

async fn ask(conn: Option<PgConnection>, options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut conn = match conn {
        Some(conn) => conn,
        None => PgConnection::connect_with(options).await?,
    };
    sqlx::query("select 1").execute(&mut conn).await?;
    Ok(conn)
}

async fn within_patience<T>(asking: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

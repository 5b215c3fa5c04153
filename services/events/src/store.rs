//! Transactions of one facility.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};

/// Whether a transaction also sees dead letters whose message has no valid facility.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unassigned {
    Hidden,
    Visible,
}

/// Begins a transaction that sees the facility's rows, in one round trip. The empty facility is that of messages
/// without a valid one.
pub(crate) async fn begin(
    pool: &PgPool,
    facility: &str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let unassigned = if facility.is_empty() {
        Unassigned::Visible
    } else {
        Unassigned::Hidden
    };
    begin_with_visibility(pool, facility, unassigned).await
}

pub(crate) async fn begin_with_visibility(
    pool: &PgPool,
    facility: &str,
    unassigned: Unassigned,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let extra = match unassigned {
        Unassigned::Hidden => "",
        Unassigned::Visible => ", set_config('weft.unassigned', 'on', true)",
    };
    begin_with(pool, facility, extra).await
}

/// Begins a transaction that fails rather than block others: when one of its statements takes longer than
/// `timeout`, or waits a fifth of that for a lock.
///
/// It is for transactions with rows of several aggregates. Two of them, or one and a caller's, may deadlock.
/// PostgreSQL detects this after a second (`deadlock_timeout`) and aborts any of them; this one fails long before.
pub(crate) async fn begin_with_timeout(
    pool: &PgPool,
    facility: &str,
    timeout: Duration,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let (statement, lock) = (timeout.as_millis(), timeout.as_millis() / 5);
    let extra = format!(
        ", set_config('statement_timeout', '{statement}', true), set_config('lock_timeout', '{lock}', true)"
    );
    begin_with(pool, facility, &extra).await
}

async fn begin_with(
    pool: &PgPool,
    facility: &str,
    extra: &str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let quoted = facility.replace('\'', "''").replace('\0', "");
    let statement = format!("begin; select set_config('weft.facility', '{quoted}', true){extra}");
    chassis::postgres::begin_with(pool, AssertSqlSafe(statement)).await
}

//! Transactions of one facility.

use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};

/// Whether a transaction sees dead letters whose message names no readable facility, beside those of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unassigned {
    Hidden,
    Visible,
}

/// A transaction that sees the facility's rows, begun in one round trip. The empty facility is that of the unassigned.
pub(crate) async fn begin(
    pool: &PgPool,
    facility: &str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let unassigned = if facility.is_empty() {
        Unassigned::Visible
    } else {
        Unassigned::Hidden
    };
    begin_seeing(pool, facility, unassigned).await
}

pub(crate) async fn begin_seeing(
    pool: &PgPool,
    facility: &str,
    unassigned: Unassigned,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let quoted = facility.replace('\'', "''").replace('\0', "");
    let also = match unassigned {
        Unassigned::Hidden => "",
        Unassigned::Visible => ", set_config('weft.unassigned', 'on', true)",
    };
    let statement = format!("begin; select set_config('weft.facility', '{quoted}', true){also}");
    pool.begin_with(AssertSqlSafe(statement)).await
}

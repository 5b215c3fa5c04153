//! Transactions of one facility.

use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};

/// A transaction that sees the facility's rows, begun in one round trip.
pub(crate) async fn begin(
    pool: &PgPool,
    facility: &str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let quoted = facility.replace('\'', "''").replace('\0', "");
    let statement = format!("begin; select set_config('weft.facility', '{quoted}', true)");
    pool.begin_with(AssertSqlSafe(statement)).await
}

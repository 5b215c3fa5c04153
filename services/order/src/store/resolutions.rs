//! Resolutions of open amounts.

use chassis::{Facility, idempotency::Key};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{order::Order, settlement::Resolution};

/// A resolution to be inserted.
pub struct NewRow<'a> {
    pub order: &'a Order,
    pub key: &'a Key,
    pub resolution: Resolution,
    /// In minor units.
    pub amount: i64,
    pub reason: &'a str,
}

/// Inserts a resolution. A second one of the same request violates `balance_resolution_request`.
pub async fn insert(conn: &mut PgConnection, row: NewRow<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into orders.balance_resolution (id, facility, order_id, request_id, request_hash, resolution, amount,
             reason)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        Uuid::now_v7(),
        row.order.facility.as_str(),
        row.order.id,
        row.key.request_id(),
        row.key.hash(),
        row.resolution.name(),
        row.amount,
        row.reason
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds the hash of the request that has created a resolution with this key.
pub async fn find_by_request(
    conn: &mut PgConnection,
    facility: &Facility,
    key: &Key,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar!(
        "select request_hash from orders.balance_resolution where facility = $1 and request_id = $2",
        facility.as_str(),
        key.request_id()
    )
    .fetch_optional(conn)
    .await
}

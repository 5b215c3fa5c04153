//! Resolutions of open amounts.

use chassis::{Facility, idempotency::Key};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{order::Order, resolve_order_balance::Input};

/// Inserts a resolution of `amount` minor units. A second one of the same request violates
/// `balance_resolution_request`.
pub async fn insert(
    conn: &mut PgConnection,
    order: &Order,
    key: &Key,
    input: &Input,
    amount: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into orders.balance_resolution (id, facility, order_id, request_id, request_hash, resolution, amount,
             reason)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        Uuid::now_v7(),
        order.facility.as_str(),
        order.id,
        key.request_id(),
        key.hash(),
        input.resolution.name(),
        amount,
        input.reason
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

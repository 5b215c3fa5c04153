//! Refunds of orders.

use std::collections::HashMap;

use chassis::{Facility, idempotency::Key};
use sqlx::PgConnection;
use uuid::Uuid;

use super::corrupt;
use crate::{
    order::Order,
    refund::{Refund, RefundState, ReturnedLine},
};

/// The order, the saga and the request of a refund.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub order: &'a Order,
    /// The saga that makes the refund; nil if it was made at the payment service.
    pub saga_id: Uuid,
    /// The key of the request. A second refund of the same request violates `order_refund_request`.
    pub key: Option<&'a Key>,
}

/// Inserts a refund with its lines.
pub async fn insert(
    conn: &mut PgConnection,
    source: &Source<'_>,
    refund: &Refund,
) -> Result<(), sqlx::Error> {
    let numbers: Vec<i32> = refund.lines.iter().map(|line| line.number).collect();
    let quantities: Vec<String> = refund
        .lines
        .iter()
        .map(|line| line.quantity.to_string())
        .collect();
    let amounts: Vec<i64> = refund.lines.iter().map(|line| line.amount).collect();
    sqlx::query!(
        "with refund as (
             insert into orders.order_refund (id, order_id, facility, reference, reason, share, balance, whole, state,
                 saga_id, created_at, request_id, request_hash, credit)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $15, $16, $17)
         )
         insert into orders.refund_line (refund_id, facility, number, quantity, amount)
         select $1, $3, * from unnest($12::integer[], $13::text[], $14::bigint[])",
        refund.id,
        source.order.id,
        source.order.facility.as_str(),
        refund.reference,
        refund.reason,
        refund.share,
        refund.balance,
        refund.whole,
        refund.state.name(),
        source.saga_id,
        refund.created_at,
        &numbers,
        &quantities,
        &amounts,
        source.key.map(Key::request_id),
        source.key.map(Key::hash),
        refund.credit
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds the refund that a request has created, with the hash of the request, however long ago.
pub async fn find_by_request(
    conn: &mut PgConnection,
    facility: &Facility,
    key: &Key,
) -> Result<Option<(Uuid, Vec<u8>)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select id, request_hash as "request_hash!" from orders.order_refund
           where facility = $1 and request_id = $2"#,
        facility.as_str(),
        key.request_id()
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.id, row.request_hash)))
}

/// Updates the state and amounts of a refund. A failed one keeps the requested amounts.
pub async fn save(conn: &mut PgConnection, refund: &Refund) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update orders.order_refund set state = $2,
             share = case when $2 = 'failed' then share else $3 end,
             balance = case when $2 = 'failed' then balance else $4 end
         where id = $1",
        refund.id,
        refund.state.name(),
        refund.share,
        refund.balance
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lists the refunds of one order, oldest first.
pub async fn list(conn: &mut PgConnection, order_id: Uuid) -> Result<Vec<Refund>, sqlx::Error> {
    Ok(list_by_order(conn, &[order_id])
        .await?
        .remove(&order_id)
        .unwrap_or_default())
}

/// Lists the refunds of many orders, grouped by order, each oldest first.
pub async fn list_by_order(
    conn: &mut PgConnection,
    orders: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Refund>>, sqlx::Error> {
    let mut lines = lines(conn, orders).await?;
    let rows = sqlx::query!(
        "select id, order_id, reference, reason, share, balance, credit, whole, state, created_at
         from orders.order_refund where order_id = any($1) order by created_at, id",
        orders
    )
    .fetch_all(conn)
    .await?;
    let mut refunds: HashMap<Uuid, Vec<Refund>> = HashMap::new();
    for row in rows {
        refunds.entry(row.order_id).or_default().push(Refund {
            id: row.id,
            reference: row.reference,
            reason: row.reason,
            share: row.share,
            balance: row.balance,
            credit: row.credit,
            whole: row.whole,
            lines: lines.remove(&row.id).unwrap_or_default(),
            state: RefundState::from_name(&row.state).ok_or_else(|| corrupt("refund state"))?,
            created_at: row.created_at,
        });
    }
    Ok(refunds)
}

async fn lines(
    conn: &mut PgConnection,
    orders: &[Uuid],
) -> Result<HashMap<Uuid, Vec<ReturnedLine>>, sqlx::Error> {
    let rows = sqlx::query!(
        "select l.refund_id, l.number, l.quantity, l.amount
         from orders.refund_line l join orders.order_refund r on r.id = l.refund_id
         where r.order_id = any($1) order by l.refund_id, l.number",
        orders
    )
    .fetch_all(conn)
    .await?;
    let mut lines: HashMap<Uuid, Vec<ReturnedLine>> = HashMap::new();
    for row in rows {
        let quantity = row.quantity.parse().map_err(|_| corrupt("quantity"))?;
        lines.entry(row.refund_id).or_default().push(ReturnedLine {
            number: row.number,
            quantity,
            amount: row.amount,
        });
    }
    Ok(lines)
}

//! GetOrder and ListOrders. A list takes a fixed number of queries for each batch of orders.

use chassis::{Facility, page::Builder};
use proto::order::v1 as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    grpc::encode,
    order::Order,
    store::{self, orders::Filter},
};

/// How a request identifies an order.
#[derive(Clone, Debug)]
pub enum Identifier {
    Id(Uuid),
    Reference(String),
}

/// Reads one order.
///
/// # Errors
/// NOT_FOUND, also when the order belongs to another facility.
pub async fn get(app: &App, facility: &Facility, name: &Identifier) -> Result<(Order, wire::Order), Error> {
    let mut tx = app.database.begin(facility).await?;
    let found = match name {
        Identifier::Id(id) => store::orders::get(&mut tx, *id).await?,
        Identifier::Reference(reference) => store::orders::find_by_reference(&mut tx, reference).await?,
    };
    let order = found.ok_or_else(|| match name {
        Identifier::Id(id) => Error::OrderNotFound(id.to_string()),
        Identifier::Reference(reference) => Error::OrderNotFound(reference.clone()),
    })?;
    let lines = store::lines::list(&mut tx, order.id).await?;
    let refunds = match order.refund_count {
        0 => Vec::new(),
        _ => store::refunds::list(&mut tx, order.id).await?,
    };
    tx.commit().await?;
    let message = encode::order(&order, &lines, &refunds);
    Ok((order, message))
}

/// Lists a page of the orders that match, newest first; the id is that of the last order if more follow.
///
/// # Errors
/// Database errors only.
pub async fn list(
    app: &App,
    facility: &Facility,
    filter: &Filter,
    after: Option<Uuid>,
    size: u32,
) -> Result<(Vec<wire::Order>, Option<Uuid>), Error> {
    let mut tx = app.database.begin(facility).await?;
    let mut orders = store::orders::list(&mut tx, filter, after, i64::from(size) + 1).await?;
    let more = orders.len() > size as usize;
    orders.truncate(size as usize);
    let ids: Vec<Uuid> = orders.iter().map(|order| order.id).collect();
    let mut filling = Builder::new(&orders);
    while let Some(orders) = filling.next_keys() {
        filling.add(encode_orders(&mut tx, orders).await?);
    }
    tx.commit().await?;
    let (page, is_cut) = filling.finish();
    let next = ids.get(page.len().saturating_sub(1)).filter(|_| more || is_cut);
    Ok((page, next.copied()))
}

/// Encodes orders with their lines and refunds, in the same order.
async fn encode_orders(conn: &mut PgConnection, orders: &[Order]) -> Result<Vec<wire::Order>, Error> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.id).collect();
    let lines = store::lines::list_by_order(conn, &ids).await?;
    let refunded: Vec<Uuid> = orders
        .iter()
        .filter(|order| order.refund_count > 0)
        .map(|order| order.id)
        .collect();
    let refunds = if refunded.is_empty() {
        std::collections::HashMap::new()
    } else {
        store::refunds::list_by_order(conn, &refunded).await?
    };
    let encode = |order: &Order| {
        let lines = lines.get(&order.id).map(Vec::as_slice).unwrap_or_default();
        let refunds = refunds.get(&order.id).map(Vec::as_slice).unwrap_or_default();
        encode::order(order, lines, refunds)
    };
    Ok(orders.iter().map(encode).collect())
}

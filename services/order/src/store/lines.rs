//! The lines of orders.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::corrupt;
use crate::order::Line;

/// Lists the lines of one order by number.
pub async fn list(conn: &mut PgConnection, order_id: Uuid) -> Result<Vec<Line>, sqlx::Error> {
    Ok(list_by_order(conn, &[order_id])
        .await?
        .remove(&order_id)
        .unwrap_or_default())
}

/// Lists the lines of many orders, grouped by order, each by number.
pub async fn list_by_order(
    conn: &mut PgConnection,
    orders: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Line>>, sqlx::Error> {
    let rows = sqlx::query!(
        "select order_id, number, code, description, quantity, amount from orders.order_line
         where order_id = any($1) order by order_id, number",
        orders
    )
    .fetch_all(conn)
    .await?;
    let mut lines: HashMap<Uuid, Vec<Line>> = HashMap::with_capacity(orders.len());
    for row in rows {
        let quantity = row.quantity.parse().map_err(|_| corrupt("quantity"))?;
        let (number, code, description, amount) = (row.number, row.code, row.description, row.amount);
        lines.entry(row.order_id).or_default().push(Line {
            number,
            code,
            description,
            quantity,
            amount,
        });
    }
    Ok(lines)
}

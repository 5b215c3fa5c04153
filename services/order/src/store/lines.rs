//! The lines of orders.

use std::collections::HashMap;

use chassis::Facility;
use sqlx::PgConnection;
use uuid::Uuid;

use super::corrupt;
use crate::order::Line;

/// Writes the lines of a new order, however many, in one statement.
pub async fn insert(
    conn: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
    lines: &[Line],
) -> Result<(), sqlx::Error> {
    let numbers: Vec<i32> = lines.iter().map(|line| line.number).collect();
    let codes: Vec<&str> = lines.iter().map(|line| line.code.as_str()).collect();
    let descriptions: Vec<&str> = lines.iter().map(|line| line.description.as_str()).collect();
    let quantities: Vec<String> = lines.iter().map(|line| line.quantity.to_string()).collect();
    let amounts: Vec<i64> = lines.iter().map(|line| line.amount).collect();
    sqlx::query!(
        "insert into orders.order_line (order_id, facility, number, code, description, quantity, amount)
         select $1, $2, * from unnest($3::integer[], $4::text[], $5::text[], $6::text[], $7::bigint[])",
        order_id,
        facility.as_str(),
        &numbers,
        &codes as &[&str],
        &descriptions as &[&str],
        &quantities,
        &amounts
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The lines of one order, in their order.
pub async fn of(conn: &mut PgConnection, order_id: Uuid) -> Result<Vec<Line>, sqlx::Error> {
    Ok(of_all(conn, &[order_id])
        .await?
        .remove(&order_id)
        .unwrap_or_default())
}

/// The lines of many orders, by order, each in their order.
pub async fn of_all(
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

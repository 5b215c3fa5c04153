//! Consumed events of claims and payments, and the changes of orders that they cause.

mod claims;
mod payments;

use ::events::{Delivery, HandlerError};
pub use claims::ClaimEvents;
use money::Money;
pub use payments::PaymentEvents;
use proto::google::r#type::Money as WireMoney;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{error::Error, events, order::Order, store};

/// Locks the order of an event. `None`: this service has no such order, so the event is ignored.
async fn lock(conn: &mut PgConnection, order_id: &str) -> Result<Option<Order>, HandlerError> {
    let id = parse_order_id(order_id)?;
    Ok(store::orders::lock(conn, id).await?)
}

/// Saves the order if it has changed, and appends its events.
async fn save(
    conn: &mut PgConnection,
    mut order: Order,
    from: i64,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    if order.version == from {
        return Ok(());
    }
    store::orders::save(conn, &[(&order, from)]).await?;
    let events = events::take_from_order(&mut order, delivery.saga_id, Some(delivery.id));
    ::events::append(conn, &events).await?;
    Ok(())
}

fn parse_order_id(order_id: &str) -> Result<Uuid, HandlerError> {
    Uuid::parse_str(order_id)
        .map_err(|_| HandlerError::not_a_uuid("ORDER_ID_MALFORMED", "order_id", order_id))
}

/// An amount in minor units of the order's currency; an absent amount is zero.
fn minor_units(order: &Order, wire: Option<&WireMoney>) -> Result<i64, HandlerError> {
    let Some(wire) = wire else { return Ok(0) };
    let money = Money::try_from(wire);
    let money = money.map_err(|error| HandlerError::schema("AMOUNT_MALFORMED", error.to_string()))?;
    if money.currency() != order.currency {
        let text = format!(
            "the order is in {}, the event in {}",
            order.currency,
            money.currency()
        );
        return Err(HandlerError::permanent("CURRENCY_MISMATCH", text));
    }
    Ok(money.minor())
}

impl From<Error> for HandlerError {
    fn from(error: Error) -> HandlerError {
        match error {
            Error::Database(error) => error.into(),
            Error::Events(error) => error.into(),
            Error::LeaseLost | Error::Busy => HandlerError::transient("LOST_RACE", error.to_string()),
            error => HandlerError::permanent("EVENT_REFUSED", error.to_string()),
        }
    }
}

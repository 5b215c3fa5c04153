//! Handles consumed events: books orders and remittances in the ledger, and updates the payment of the patient's
//! balance.

pub mod orders;
pub mod remittances;

use chassis::Facility;
use events::{Delivery, HandlerError};
use money::Money;
use proto::google::r#type::Money as WireMoney;
use sqlx::PgConnection;
use uuid::Uuid;

pub use orders::Orders;
pub use remittances::Remittances;

use crate::{
    error::Error,
    ledger::{Booking, Origin},
    store::ledger,
};

fn decode_facility(delivery: &Delivery) -> Result<Facility, HandlerError> {
    Facility::new(&delivery.facility)
        .map_err(|error| HandlerError::schema("FACILITY_MALFORMED", error.to_string()))
}

/// Books the transactions of the bookings that have one.
async fn book(
    tx: &mut PgConnection,
    facility: &Facility,
    bookings: impl IntoIterator<Item = Booking>,
) -> Result<(), Error> {
    let mut transactions = Vec::new();
    for booking in bookings {
        transactions.extend(booking?);
    }
    let booked: Vec<_> = transactions.iter().map(|booked| (facility, booked)).collect();
    if !booked.is_empty() {
        ledger::book(tx, &booked).await?;
    }
    Ok(())
}

/// The origin of transactions that book this event for this order.
fn decode_origin(delivery: &Delivery, order_id: &str) -> Result<Origin, HandlerError> {
    let order_id = Uuid::parse_str(order_id)
        .map_err(|_| HandlerError::not_a_uuid("ORDER_ID_MALFORMED", "order_id", order_id))?;
    Ok(Origin {
        order_id,
        payment_id: None,
        causation_id: delivery.id,
        source_id: delivery.id,
    })
}

/// Decodes the amounts of one event. An absent amount is zero in the currency of the others.
fn decode_amounts<const N: usize>(wire: [&Option<WireMoney>; N]) -> Result<[Money; N], HandlerError> {
    let given = wire.into_iter().flatten().next();
    let given = given.ok_or_else(|| HandlerError::schema("AMOUNT_MISSING", "the event has no amount"))?;
    let zero = Money::zero(decode_amount(given)?.currency());
    let mut amounts = [zero; N];
    for (slot, wire) in amounts.iter_mut().zip(wire) {
        *slot = wire.as_ref().map_or(Ok(zero), decode_amount)?;
    }
    Ok(amounts)
}

fn decode_amount(wire: &WireMoney) -> Result<Money, HandlerError> {
    Money::try_from(wire).map_err(|error| HandlerError::schema("AMOUNT_MALFORMED", error.to_string()))
}

impl From<Error> for HandlerError {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(error) => error.into(),
            Error::Event(error) => error.into(),
            Error::LostRace => Self::transient("LOST_RACE", error.to_string()),
            Error::Ledger(unbookable) => Self::permanent("UNBOOKABLE", unbookable.to_string()),
            Error::Refused(refusal) => Self::permanent("PAYMENT_REFUSES", refusal.to_string()),
            error => Self::permanent("EVENT_REFUSED", error.to_string()),
        }
    }
}

//! Consumed events: an order that ended before it was fulfilled leaves no claim behind.

use chassis::Facility;
use events::{Delivery, Handler, HandlerError};
use proto::order::v1::{OrderCancelled, OrderExpired, OrderRejected};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{error::Error, withdraw_claim};

/// Withdraws what is left of the claims of orders that ended. Their sagas withdraw drafts themselves; this one finds
/// what a person filed by hand, or a saga could not reach.
#[derive(Clone, Copy, Debug)]
pub struct EndedOrders;

impl EndedOrders {
    /// The consumer's name.
    pub const NAME: &'static str = "claims-orders";
    /// What it consumes.
    pub const SUBJECTS: [&'static str; 3] = [
        "evt.order.order.rejected",
        "evt.order.order.expired",
        "evt.order.order.cancelled",
    ];
}

impl Handler for EndedOrders {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        let facility = Facility::new(&delivery.facility)
            .map_err(|error| HandlerError::schema("FACILITY_MALFORMED", error.to_string()))?;
        let (order_id, reason) = ended(delivery)?;
        let order_id = Uuid::parse_str(&order_id)
            .map_err(|_| HandlerError::not_a_uuid("ORDER_ID_MALFORMED", "order_id", &order_id))?;
        Ok(withdraw_claim::of_ended_order(tx, &facility, order_id, reason).await?)
    }
}

fn ended(delivery: &Delivery) -> Result<(String, String), HandlerError> {
    if delivery.is::<OrderRejected>() {
        let event: OrderRejected = delivery.decode()?;
        return Ok((event.order_id, format!("order rejected: {}", event.reason)));
    }
    if delivery.is::<OrderExpired>() {
        let event: OrderExpired = delivery.decode()?;
        return Ok((event.order_id, "order expired".to_owned()));
    }
    let event: OrderCancelled = delivery.decode()?;
    Ok((event.order_id, format!("order cancelled: {}", event.reason)))
}

impl From<Error> for HandlerError {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(error) => error.into(),
            Error::FilingInProgress => Self::transient("FILING_IN_PROGRESS", error.to_string()),
            error => Self::permanent("CLAIM_REFUSES", error.to_string()),
        }
    }
}

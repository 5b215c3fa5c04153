//! Consumed events: withdraws the claims of orders that ended before fulfilment.

use chassis::Facility;
use events::{Delivery, Handler, HandlerError};
use proto::order::v1::{OrderCancelled, OrderExpired, OrderRejected};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{error::Error, withdraw_claim};

/// Withdraws the remaining claims of orders that ended. Sagas withdraw their drafts themselves; this handler
/// withdraws claims that a person submitted by hand or that a saga could not reach.
#[derive(Clone, Copy, Debug)]
pub struct EndedOrders;

impl EndedOrders {
    /// The consumer's name.
    pub const NAME: &'static str = "claims-orders";
    /// The subjects that it consumes.
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
        let (order_id, reason) = decode_end(delivery)?;
        let order_id = Uuid::parse_str(&order_id)
            .map_err(|_| HandlerError::not_a_uuid("ORDER_ID_MALFORMED", "order_id", &order_id))?;
        Ok(withdraw_claim::withdraw_for_ended_order(tx, &facility, order_id, reason).await?)
    }
}

/// The id of the order that ended, and the reason.
fn decode_end(delivery: &Delivery) -> Result<(String, String), HandlerError> {
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
            Error::SubmissionInProgress => Self::transient("FILING_IN_PROGRESS", error.to_string()),
            error => Self::permanent("CLAIM_REFUSES", error.to_string()),
        }
    }
}

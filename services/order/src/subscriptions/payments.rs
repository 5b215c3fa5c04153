//! What becomes of payments.

use events::{Delivery, Handler, HandlerError};
use proto::payment::v1::{
    PaymentAuthorized, PaymentCaptured, PaymentDeclined, PaymentPurpose, PaymentVoided,
};
use sqlx::PgConnection;

use super::{amount, lock, parse, save};
use crate::{
    cancel_order,
    error::Error,
    order::{Failure, State},
    store::{self, sagas::Lease},
};

/// Wakes the sagas that wait for a payment, takes the payment of a balance, and gives up orders whose authorization
/// has lapsed.
pub struct Payments {
    /// When a saga that begins now counts as stuck.
    pub patience: time::Duration,
}

impl Payments {
    /// The consumer's name.
    pub const NAME: &'static str = "order-payments";
    /// What it consumes.
    pub const SUBJECTS: [&'static str; 4] = [
        "evt.payment.payment.authorized",
        "evt.payment.payment.declined",
        "evt.payment.payment.captured",
        "evt.payment.payment.voided",
    ];
}

impl Handler for Payments {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        if delivery.is::<PaymentAuthorized>() {
            let event: PaymentAuthorized = delivery.decode()?;
            return wake(tx, event.purpose(), &event.order_id).await;
        }
        if delivery.is::<PaymentDeclined>() {
            let event: PaymentDeclined = delivery.decode()?;
            return wake(tx, event.purpose(), &event.order_id).await;
        }
        if delivery.is::<PaymentVoided>() {
            return self.voided(tx, delivery.decode()?, delivery).await;
        }
        captured(tx, delivery.decode()?, delivery).await
    }
}

impl Payments {
    /// A confirmed order without its money cannot be fulfilled any more.
    async fn voided(
        &self,
        conn: &mut PgConnection,
        event: PaymentVoided,
        delivery: &Delivery,
    ) -> Result<(), HandlerError> {
        if event.purpose() != PaymentPurpose::Share {
            return Ok(());
        }
        let Some(mut order) = lock(conn, &event.order_id).await? else {
            return Ok(());
        };
        if order.state == State::Confirmed && !order.busy {
            let failure = Failure::new("PAYMENT_VOIDED", event.reason);
            let causation = Some(delivery.id);
            cancel_order::begin(
                conn,
                &mut order,
                failure,
                self.patience,
                Lease::Released,
                causation,
            )
            .await?;
        } else if order.busy {
            store::sagas::wake(conn, order.saga_id).await?;
        }
        Ok(())
    }
}

/// A saga that waits for the share looks what has become of it. Most have ended by the time they hear of it.
async fn wake(conn: &mut PgConnection, purpose: PaymentPurpose, order_id: &str) -> Result<(), HandlerError> {
    if purpose != PaymentPurpose::Share {
        return Ok(());
    }
    if let Some(order) = store::orders::get(conn, parse(order_id)?)
        .await?
        .filter(|order| order.busy)
    {
        store::sagas::wake(conn, order.saga_id).await?;
    }
    Ok(())
}

async fn captured(
    conn: &mut PgConnection,
    event: PaymentCaptured,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    if event.purpose() != PaymentPurpose::Balance {
        return wake(conn, event.purpose(), &event.order_id).await;
    }
    let Some(mut order) = lock(conn, &event.order_id).await? else {
        return Ok(());
    };
    let from = order.version;
    let paid = amount(&order, event.amount.as_ref())?;
    order.balance_paid(paid).map_err(Error::from)?;
    save(conn, order, from, delivery).await
}

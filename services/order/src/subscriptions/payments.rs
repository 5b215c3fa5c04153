//! Events of the payment service.

use chassis::postgres::Clock;
use events::{Delivery, Handler, HandlerError};
use proto::payment::v1::{
    PaymentAuthorized, PaymentCaptured, PaymentDeclined, PaymentPurpose, PaymentRefunded, PaymentVoided,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{lock, minor_units, parse_order_id, save};
use crate::{
    cancel_order,
    error::Error,
    order::{Failure, Order, State},
    refund::{self, Refund, RefundState},
    saga::ActiveSagas,
    store::{self, sagas::Lease},
};

/// Wakes sagas that wait for a payment, records the payment of a balance, cancels orders whose authorization has
/// expired, and records refunds that were made at the payment service.
pub struct PaymentEvents {
    /// The clock that determines when sagas are due.
    pub clock: Clock,
    /// How long a saga may take before it counts as stuck.
    pub stuck_after: time::Duration,
    /// The orders whose sagas this process drives.
    pub active_sagas: ActiveSagas,
}

impl PaymentEvents {
    /// The consumer's name.
    pub const NAME: &'static str = "order-payments";
    /// The subjects that it consumes.
    pub const SUBJECTS: [&'static str; 5] = [
        "evt.payment.payment.authorized",
        "evt.payment.payment.declined",
        "evt.payment.payment.captured",
        "evt.payment.payment.voided",
        "evt.payment.payment.refunded",
    ];
}

impl Handler for PaymentEvents {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        if let Some(outcome) = ShareOutcome::decode(delivery)? {
            return Ok(self.wake(tx, &[outcome]).await?);
        }
        if delivery.is::<PaymentVoided>() {
            return self.handle_voided(tx, delivery.decode()?, delivery).await;
        }
        if delivery.is::<PaymentRefunded>() {
            return handle_refunded(tx, &delivery.decode()?, delivery).await;
        }
        if delivery.is::<PaymentCaptured>() {
            return handle_balance_captured(tx, delivery.decode()?, delivery).await;
        }
        // The authorization or decline of a balance's payment changes nothing here.
        Ok(())
    }

    async fn handle_all(&self, tx: &mut PgConnection, deliveries: &[Delivery]) -> Result<bool, HandlerError> {
        let outcomes = deliveries.iter().map(ShareOutcome::decode);
        let outcomes: Vec<_> = outcomes.collect::<Result<_, _>>()?;
        let Some(outcomes) = outcomes.into_iter().collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        self.wake(tx, &outcomes).await?;
        Ok(true)
    }
}

/// The order whose share was authorized, declined or captured.
struct ShareOutcome(Uuid);

impl ShareOutcome {
    /// `None` for another event.
    fn decode(delivery: &Delivery) -> Result<Option<ShareOutcome>, HandlerError> {
        let (purpose, order_id) = if delivery.is::<PaymentAuthorized>() {
            let event: PaymentAuthorized = delivery.decode()?;
            (event.purpose(), event.order_id)
        } else if delivery.is::<PaymentDeclined>() {
            let event: PaymentDeclined = delivery.decode()?;
            (event.purpose(), event.order_id)
        } else if delivery.is::<PaymentCaptured>() {
            let event: PaymentCaptured = delivery.decode()?;
            (event.purpose(), event.order_id)
        } else {
            return Ok(None);
        };
        match purpose {
            PaymentPurpose::Share => Ok(Some(ShareOutcome(parse_order_id(&order_id)?))),
            _ => Ok(None),
        }
    }
}

impl PaymentEvents {
    /// Wakes the sagas that wait for the payments of their orders' shares. Most sagas have ended when the event
    /// arrives, or are driven in this process and check for it before they wait.
    async fn wake(&self, conn: &mut PgConnection, outcomes: &[ShareOutcome]) -> Result<(), sqlx::Error> {
        let orders = outcomes.iter().map(|outcome| outcome.0);
        let orders: Vec<_> = orders.filter(|order| !self.active_sagas.notify(*order)).collect();
        if orders.is_empty() {
            Ok(())
        } else {
            store::sagas::wake_by_orders(conn, &orders).await
        }
    }

    /// Cancels a confirmed order whose payment was voided: it can no longer be fulfilled.
    async fn handle_voided(
        &self,
        conn: &mut PgConnection,
        event: PaymentVoided,
        delivery: &Delivery,
    ) -> Result<(), HandlerError> {
        let Some(mut order) = lock(conn, &event.order_id).await? else {
            return Ok(());
        };
        if event.purpose() != PaymentPurpose::Share {
            return handle_balance_voided(conn, order, delivery).await;
        }
        if order.state == State::Confirmed && !order.busy {
            let failure = Failure::new("PAYMENT_VOIDED", event.reason);
            let causation = Some(delivery.id);
            cancel_order::begin(
                conn,
                &mut order,
                failure,
                self.clock.now() + self.stuck_after,
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

/// Requests a due balance again, unless a return of the whole order is pending.
async fn handle_balance_voided(
    conn: &mut PgConnection,
    mut order: Order,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    let refunds = match order.refund_count {
        0 => Vec::new(),
        _ => store::refunds::list(conn, order.id).await?,
    };
    if refunds
        .iter()
        .any(|refund| refund.whole && refund.state == RefundState::Pending)
    {
        return Ok(());
    }
    let from = order.version;
    order.request_balance_again();
    save(conn, order, from, delivery).await
}

/// Records what was refunded at the payment service beyond the order's own refunds as another refund of the order.
async fn handle_refunded(
    conn: &mut PgConnection,
    event: &PaymentRefunded,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    let Some(mut order) = lock(conn, &event.order_id).await? else {
        return Ok(());
    };
    let refunds = store::refunds::list(conn, order.id).await?;
    let of_balance = event.purpose() == PaymentPurpose::Balance;
    let part = |refund: &Refund| if of_balance { refund.balance } else { refund.share };
    let recorded: i64 = refunds
        .iter()
        .filter(|refund| refund.state != RefundState::Failed)
        .map(part)
        .sum();
    let total = match &event.refunded {
        Some(total) => minor_units(&order, Some(total))?,
        // An earlier release did not send the sum.
        None if refunds.is_empty() => minor_units(&order, event.amount.as_ref())?,
        None => return Ok(()),
    };
    let external = total - recorded;
    if external <= 0 {
        return Ok(());
    }
    let (share, balance) = if of_balance { (0, external) } else { (external, 0) };
    let refund = Refund {
        id: Uuid::parse_str(&event.refund_id)
            .map_err(|_| HandlerError::not_a_uuid("REFUND_ID_MALFORMED", "refund_id", &event.refund_id))?,
        reference: String::new(),
        reason: "refunded at the payment service".to_owned(),
        share,
        balance,
        credit: Some(refund::unreserved_credit(&order, &refunds).min(balance)),
        whole: false,
        lines: Vec::new(),
        state: RefundState::Done,
        created_at: time::OffsetDateTime::now_utc(),
    };
    let from = order.version;
    order.apply_external_refund(&refund).map_err(Error::from)?;
    order.refund_count += 1;
    let source = store::refunds::Source {
        order: &order,
        saga_id: Uuid::nil(),
        key: None,
    };
    store::refunds::insert(conn, &source, &refund).await?;
    save(conn, order, from, delivery).await
}

/// Records the payment of a balance.
async fn handle_balance_captured(
    conn: &mut PgConnection,
    event: PaymentCaptured,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    if event.purpose() != PaymentPurpose::Balance {
        return Ok(());
    }
    let Some(mut order) = lock(conn, &event.order_id).await? else {
        return Ok(());
    };
    let from = order.version;
    let paid = minor_units(&order, event.amount.as_ref())?;
    order.apply_balance_payment(paid).map_err(Error::from)?;
    save(conn, order, from, delivery).await
}

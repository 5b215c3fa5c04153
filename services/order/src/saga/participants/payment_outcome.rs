//! The outcome of a step by the state of the order's payment.

use proto::payment::v1::{Payment, PaymentState};
use time::OffsetDateTime;
use tonic::Status;
use uuid::Uuid;

use super::malformed;
use crate::{
    order::{Failure, Order, State},
    saga::{Effect, Outcome, Wait},
};

/// Maps a payment's state to the outcome for its order. `now` is by the database's clock.
pub(super) fn authorization_outcome(
    order: &Order,
    payment: &Payment,
    now: OffsetDateTime,
) -> Result<Outcome, Status> {
    let id = payment_id(payment)?;
    let unpaid = order.state == State::AwaitingPayment || order.payment_method.is_empty();
    match payment.state() {
        PaymentState::Authorized | PaymentState::Captured => Ok(Outcome::Done(Effect::PaymentAuthorized(id))),
        // The patient may try another method until the payment window closes.
        PaymentState::Created | PaymentState::Declined if unpaid => {
            if order.is_expired(now) {
                Ok(refused(
                    "PAYMENT_WINDOW_PASSED",
                    "the order was not paid in time",
                    true,
                ))
            } else {
                Ok(Outcome::Wait(Wait::PaymentMethod(id)))
            }
        }
        // It is voided as well: otherwise PayOrder could still pay it with another card after the order has ended.
        PaymentState::Declined => Ok(refused(
            decline_reason(payment),
            "the payment method was declined",
            true,
        )),
        PaymentState::Voided => Ok(refused("PAYMENT_VOIDED", "the payment was voided", true)),
        PaymentState::Expired => Ok(refused("PAYMENT_EXPIRED", "the authorization has expired", true)),
        PaymentState::Created | PaymentState::Authorizing | PaymentState::Unknown => {
            Ok(Outcome::Wait(Wait::PaymentOutcome(id)))
        }
        PaymentState::Unspecified => Err(malformed("payment state")),
    }
}

pub(super) fn payment_id(payment: &Payment) -> Result<Uuid, Status> {
    Uuid::parse_str(&payment.id).map_err(|_| malformed("payment"))
}

fn decline_reason(payment: &Payment) -> &str {
    match payment.decline_reason.as_str() {
        "" => "CARD_DECLINED",
        reason => reason,
    }
}

fn refused(reason: &str, message: &str, undo: bool) -> Outcome {
    Outcome::Refused {
        failure: Failure::new(reason, message),
        undo,
    }
}

#[cfg(test)]
#[path = "payment_outcome_tests.rs"]
mod tests;

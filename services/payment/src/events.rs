//! Maps changes of a payment to its published events.

use ::events::{Event, Meta};
use chassis::Facility;
use money::Money;
use prost::{Message, Name};
use proto::payment::v1 as wire;
use uuid::Uuid;

use crate::{grpc::encode::purpose, payment::Payment};

/// Wraps a message as an event of the payment. The payment's version must have been incremented under its lock.
pub(crate) fn to_event<M: Message + Name>(
    facility: &Facility,
    payment: &Payment,
    causation_id: Uuid,
    message: &M,
) -> Event {
    let meta = Meta {
        facility: facility.as_str().to_owned(),
        aggregate_id: payment.id,
        version: payment.version,
        saga_id: None,
        causation_id: Some(causation_id),
    };
    Event::new(message, meta)
}

pub(crate) fn authorized(payment: &Payment, amount: Money) -> wire::PaymentAuthorized {
    wire::PaymentAuthorized {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        purpose: purpose(payment.purpose).into(),
        amount: Some(amount.into()),
    }
}

pub(crate) fn declined(payment: &Payment, reason: &str) -> wire::PaymentDeclined {
    wire::PaymentDeclined {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        purpose: purpose(payment.purpose).into(),
        reason: reason.to_owned(),
    }
}

pub(crate) fn captured(payment: &Payment, amount: Money) -> wire::PaymentCaptured {
    wire::PaymentCaptured {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        purpose: purpose(payment.purpose).into(),
        amount: Some(amount.into()),
    }
}

pub(crate) fn voided(payment: &Payment, reason: &str) -> wire::PaymentVoided {
    wire::PaymentVoided {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        purpose: purpose(payment.purpose).into(),
        reason: reason.to_owned(),
    }
}

pub(crate) fn refunded(payment: &Payment, amount: Money, refund_id: Uuid) -> wire::PaymentRefunded {
    wire::PaymentRefunded {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        purpose: purpose(payment.purpose).into(),
        amount: Some(amount.into()),
        refund_id: refund_id.to_string(),
        refunded: payment.money(payment.refunded).map(Into::into),
    }
}

pub(crate) fn outcome_unknown(payment: &Payment) -> wire::PaymentOutcomeUnknown {
    wire::PaymentOutcomeUnknown {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        purpose: purpose(payment.purpose).into(),
    }
}

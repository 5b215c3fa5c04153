//! Checks for changes that were made to a payment directly at the payment service. They are read after a refusal,
//! which stands if there are none, and after a replayed response. Pure.

use money::Money;
use proto::{
    google::r#type::Money as WireMoney,
    payment::v1::{Payment, PaymentPurpose, PaymentState, RefundState},
};
use tonic::Status;

use super::{done, malformed};
use crate::{
    order::{Failure, Order},
    refund::{self, Refund},
    saga::{Effect, Outcome, PaymentTotals, Step},
};

/// The part of a refund that a refund step refunds from one payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) purpose: PaymentPurpose,
    /// In minor units.
    pub(super) wanted: i64,
    /// What the order's other refunds have refunded from this payment, or are about to.
    pub(super) others: i64,
}

impl Part {
    /// The part of `refund` that `step` refunds; `refunds` are all refunds of the order.
    pub(super) fn new(refund: &Refund, refunds: &[Refund], step: Step) -> Part {
        let (purpose, amount): (_, fn(&Refund) -> i64) = match step {
            Step::RefundBalance => (PaymentPurpose::Balance, |refund| refund.balance),
            _ => (PaymentPurpose::Share, |refund| refund.share),
        };
        let others = refunds
            .iter()
            .filter(|other| other.id != refund.id && other.state != refund::RefundState::Failed);
        Part {
            purpose,
            wanted: amount(refund),
            others: others.map(amount).sum(),
        }
    }
}

/// The captured and refunded amounts of a payment.
pub(super) fn totals(payment: &Payment) -> Result<PaymentTotals, Status> {
    Ok(PaymentTotals {
        captured: minor(payment.captured.as_ref())?,
        refunded: minor(payment.refunded.as_ref())?,
        refunding: payment
            .refunds
            .iter()
            .any(|refund| refund.state() == RefundState::Pending),
        undecided: is_undecided(payment) || payment.capture_pending,
    })
}

/// Whether the processor has not reported yet whether it has authorized the payment.
pub(super) fn is_undecided(payment: &Payment) -> bool {
    matches!(payment.state(), PaymentState::Authorizing | PaymentState::Unknown)
}

/// The payment of the share has another amount than the order's share, and it is unknown which one is correct.
pub(super) fn check_amount(order: &Order, payment: &Payment) -> Result<Option<Outcome>, Status> {
    let Some(amount) = &payment.amount else {
        return Ok(None);
    };
    let share = order.money(order.price.patient_share);
    let amount = Money::try_from(amount).map_err(|_| malformed("amount"))?;
    Ok((amount != share).then(|| {
        stuck(format!(
            "the order has a payment of its share over {amount} instead of {share}: void it by hand, then retry the \
             saga, which then cancels or rejects the order"
        ))
    }))
}

/// The share was captured. Later refunds do not matter unless everything was refunded: then the order has no
/// payment any more.
pub(super) fn check_captured(order: &Order, payment: &Payment) -> Result<Option<Outcome>, Status> {
    if payment.state() != PaymentState::Captured {
        return Ok(None);
    }
    let paid = decided_totals(payment)?;
    if paid.captured == paid.refunded {
        return Ok(Some(Outcome::Refused {
            failure: Failure::new(
                "PAYMENT_REFUNDED",
                "the payment was captured and given back by hand",
            ),
            undo: false,
        }));
    }
    if paid.captured >= order.price.patient_share {
        return Ok(Some(done()));
    }
    let (captured, share) = (order.money(paid.captured), order.money(order.price.patient_share));
    Ok(Some(stuck(format!(
        "of the share of {share} only {captured} was captured by hand, and the rest of the hold is released: refund the \
         payment by hand and retry the saga, which then cancels or rejects the order"
    ))))
}

/// The amount of a captured payment that was not refunded, in minor units.
pub(super) fn kept_amount(payment: &Payment) -> Result<Option<i64>, Status> {
    if payment.state() != PaymentState::Captured {
        return Ok(None);
    }
    let paid = decided_totals(payment)?;
    Ok(Some(paid.captured - paid.refunded))
}

/// A captured share cannot be voided; it is done once everything was refunded.
pub(super) fn check_fully_refunded(order: &Order, payment: &Payment) -> Result<Option<Outcome>, Status> {
    Ok(kept_amount(payment)?.map(|kept| match kept {
        0 => done(),
        kept => stuck(format!(
            "the payment is captured and {} of it is kept: refund it by hand, then retry the saga",
            order.money(kept)
        )),
    }))
}

/// The balance was paid before it could be voided. The order must have processed the payment's event first,
/// because it never refunds more than it has recorded as paid.
pub(super) fn check_balance_paid(order: &Order, payment: &Payment) -> Result<Option<Outcome>, Status> {
    if payment.state() != PaymentState::Captured {
        return Ok(None);
    }
    let paid = decided_totals(payment)?;
    if order.account.balance_paid < paid.captured {
        return Err(Status::unavailable(
            "the order has not recorded the paid balance yet",
        ));
    }
    let left = paid.captured - paid.refunded;
    Ok(Some(Outcome::Done(Effect::BalanceToRefund(left))))
}

/// A part of a refund was made directly at the payment service.
pub(super) fn check_refunded(
    order: &Order,
    payment: &Payment,
    part: &Part,
) -> Result<Option<Outcome>, Status> {
    let paid = decided_totals(payment)?;
    let given = paid.refunded - part.others;
    if given >= part.wanted {
        return Ok(Some(done()));
    }
    // The refusal has another reason.
    if given <= 0 {
        return Ok(None);
    }
    // Even if the rest could be refunded, the refusal must not stand: the part that was refunded would be lost.
    let (wanted, given) = (part.wanted, order.money(given));
    Ok(Some(stuck(format!(
        "of {} that are to be given back {given} were given back by hand: refund the rest of it by hand, then retry the \
         saga",
        order.money(wanted)
    ))))
}

/// The captured and refunded amounts, once no refund is in progress.
fn decided_totals(payment: &Payment) -> Result<PaymentTotals, Status> {
    let paid = totals(payment)?;
    if paid.refunding {
        Err(Status::unavailable("a refund of the payment is in progress"))
    } else {
        Ok(paid)
    }
}

fn stuck(reason: String) -> Outcome {
    Outcome::Stuck { reason }
}

fn minor(wire: Option<&WireMoney>) -> Result<i64, Status> {
    let money = wire.map(Money::try_from).transpose();
    money
        .map(|money| money.map_or(0, |money| money.minor()))
        .map_err(|_| malformed("amount"))
}

#[cfg(test)]
#[path = "manual_changes_tests.rs"]
mod tests;

//! Applies the processor's final outcome of an operation to the payment, the ledger and the events, without the
//! database.

use std::time::Duration;

use chassis::Facility;
use money::Money;
use time::OffsetDateTime;

use crate::{
    changes::Changes,
    error::Error,
    events,
    ledger::{self, Transaction},
    operation::{Kind, Operation, State},
    payment::{self, Payment, Purpose},
    processor::Outcome,
    store::{RefundState, operations::Charge, updates::Update},
};

/// The outcome, and what is needed to apply it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutcomeContext<'a> {
    pub(crate) facility: &'a Facility,
    /// The open operation, as it was before the outcome.
    pub(crate) operation: &'a Operation,
    pub(crate) outcome: &'a Outcome,
    /// The time of the transaction.
    pub(crate) now: OffsetDateTime,
    /// How long an authorization holds.
    pub(crate) lifetime: time::Duration,
    /// How long a follow-up operation is leased to this process.
    pub(crate) lease: Duration,
    /// For a refund with a remainder: the two charges with the most left to refund, as they were before the
    /// outcome.
    pub(crate) charges: &'a [Charge],
}

/// The changes to write, and the completed operation.
#[derive(Clone, Debug)]
pub(crate) struct AppliedOutcome {
    pub(crate) changes: Changes,
    pub(crate) operation: Operation,
}

/// Applies the outcome of an open operation to its payment. If an operation follows, the changes open it.
pub(crate) fn apply(payment: Payment, context: OutcomeContext<'_>) -> Result<AppliedOutcome, Error> {
    let mut operation = context.operation.clone();
    operation.complete(context.outcome);
    let mut changes = Changes::new(context.facility, payment);
    changes.operations.push(Update::completed(&operation));
    apply_to_changes(&mut changes, &operation, context)?;
    Ok(AppliedOutcome { changes, operation })
}

/// Applies the outcome of the follow-up operation, if it is known already.
pub(crate) fn apply_next(
    applied: AppliedOutcome,
    context: OutcomeContext<'_>,
) -> Result<AppliedOutcome, Error> {
    let AppliedOutcome {
        mut changes,
        mut operation,
    } = applied;
    if let Some(next) = changes.opened.take() {
        operation = next.operation;
        operation.complete(context.outcome);
        changes.insert_ended(&operation);
        apply_to_changes(&mut changes, &operation, context)?;
    }
    Ok(AppliedOutcome { changes, operation })
}

fn apply_to_changes(
    changes: &mut Changes,
    operation: &Operation,
    context: OutcomeContext<'_>,
) -> Result<(), Error> {
    let next = match context.outcome {
        Outcome::Approved { reference } => apply_approval(changes, operation, reference, context)?,
        Outcome::Refused { reason } => apply_refusal(changes, operation, reason)?,
    };
    changes.save(context.now);
    if let Some(next) = next {
        changes.open(next, context.lease, None);
    }
    Ok(())
}

fn apply_approval(
    changes: &mut Changes,
    operation: &Operation,
    reference: &str,
    context: OutcomeContext<'_>,
) -> Result<Option<Operation>, Error> {
    let amount = operation.amount;
    let payment = &mut changes.payment;
    match operation.kind {
        Kind::Authorize => {
            let expires_at = context.now + context.lifetime;
            payment.authorize(amount.minor(), reference, expires_at)?;
            let event = events::authorized(payment, amount);
            changes.add_event(operation.request_id, &event);
            return Ok(operation.then_capture.then(|| operation.next(Kind::Capture)));
        }
        Kind::Capture => {
            payment.capture(amount.minor())?;
            let origin = origin(payment, operation);
            let event = events::captured(payment, amount);
            changes.add_amounts(operation.authorization_id, amount.minor(), 0);
            changes.book(Transaction::payment_captured(origin, amount))?;
            changes.add_event(operation.request_id, &event);
        }
        Kind::Void => {
            payment.void()?;
            let event = events::voided(payment, &operation.reason);
            changes.add_event(operation.request_id, &event);
        }
        Kind::Expire => apply_expiry(changes, operation)?,
        Kind::Release => {}
        Kind::Refund => return apply_refund(changes, operation, context.charges),
    }
    Ok(None)
}

fn apply_refusal(
    changes: &mut Changes,
    operation: &Operation,
    reason: &str,
) -> Result<Option<Operation>, Error> {
    let payment = &mut changes.payment;
    match operation.kind {
        Kind::Authorize => {
            payment.decline(reason)?;
            let event = events::declined(payment, reason);
            changes.add_event(operation.request_id, &event);
        }
        // A share stays authorized, and its saga decides. For a balance the patient may try another method, so the
        // authorization is no longer needed.
        Kind::Capture if payment.purpose == Purpose::Balance => {
            payment.decline(reason)?;
            let event = events::declined(payment, reason);
            changes.add_event(operation.request_id, &event);
            return Ok(Some(operation.next(Kind::Release)));
        }
        // The void has failed, so the outcome of the authorization that it had replaced has to be resolved.
        Kind::Void
            if matches!(
                payment.state,
                payment::State::Authorizing | payment::State::Unknown
            ) =>
        {
            let reopened = Update::postponed(operation.authorization_id, State::Unknown, Duration::ZERO);
            changes.operations.push(reopened);
        }
        Kind::Capture | Kind::Void | Kind::Release => {}
        // The authorization has lapsed at the card network as well, even if the network refuses to void it.
        Kind::Expire => apply_expiry(changes, operation)?,
        Kind::Refund => {
            payment.increment_version();
            changes.refund = Some((operation.id, RefundState::Failed));
        }
    }
    Ok(None)
}

fn apply_expiry(changes: &mut Changes, operation: &Operation) -> Result<(), Error> {
    changes.payment.expire()?;
    let event = events::voided(&changes.payment, "AUTHORIZATION_EXPIRED");
    changes.add_event(operation.request_id, &event);
    Ok(())
}

fn apply_refund(
    changes: &mut Changes,
    operation: &Operation,
    charges: &[Charge],
) -> Result<Option<Operation>, Error> {
    let amount = operation.amount;
    changes.payment.refund(amount.minor())?;
    changes.add_amounts(operation.authorization_id, 0, amount.minor());
    changes.refund = Some((operation.id, RefundState::Succeeded));
    let origin = origin(&changes.payment, operation);
    changes.book(Transaction::refund(origin, amount))?;
    let event = events::refunded(&changes.payment, amount, operation.id);
    changes.add_event(operation.request_id, &event);
    if operation.remaining == 0 {
        return Ok(None);
    }
    // The charge was too small for the whole refund: the rest is refunded from the next charge.
    let charge = largest_charge(charges, operation).ok_or(Error::Inconsistent(changes.payment.id))?;
    let part = operation.remaining.min(charge.left);
    changes.payment.increment_version();
    Ok(Some(Operation {
        authorization_id: charge.authorization_id,
        amount: Money::new(part, amount.currency()),
        reason: operation.reason.clone(),
        remaining: operation.remaining - part,
        ..operation.next(Kind::Refund)
    }))
}

/// The charge with the most left to refund after `refunded`.
fn largest_charge(charges: &[Charge], refunded: &Operation) -> Option<Charge> {
    let afterwards = charges.iter().map(|charge| {
        let is_refunded = charge.authorization_id == refunded.authorization_id;
        let just_refunded = if is_refunded { refunded.amount.minor() } else { 0 };
        Charge {
            left: charge.left - just_refunded,
            ..*charge
        }
    });
    afterwards
        .filter(|charge| charge.left > 0)
        .max_by_key(|charge| (charge.left, std::cmp::Reverse(charge.authorization_id)))
}

fn origin(payment: &Payment, operation: &Operation) -> ledger::Origin {
    ledger::Origin {
        order_id: payment.order_id,
        payment_id: Some(payment.id),
        causation_id: operation.request_id,
        source_id: operation.id,
    }
}

#[cfg(test)]
#[path = "apply_outcome/tests.rs"]
mod tests;

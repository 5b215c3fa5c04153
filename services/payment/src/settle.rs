//! What the processor's final answer changes: the payment, the ledger, the events. Decided without the database.

use std::time::Duration;

use chassis::Facility;
use money::Money;
use time::OffsetDateTime;

use crate::{
    changes::Changes,
    error::Error,
    ledger::{self, Transaction},
    operation::{Kind, Operation, State},
    payment::{self, Payment, Purpose},
    processor::Outcome,
    publish,
    store::{RefundState, operations::Charge, updates::Update},
};

/// What a final answer is seen with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered<'a> {
    pub(crate) facility: &'a Facility,
    /// Open, as it was before the answer.
    pub(crate) operation: &'a Operation,
    pub(crate) outcome: &'a Outcome,
    /// The time of the transaction.
    pub(crate) now: OffsetDateTime,
    /// How long an authorization holds.
    pub(crate) lifetime: time::Duration,
    /// How long what follows by itself belongs to the one who has asked.
    pub(crate) lease: Duration,
    /// Of a refund with a remainder: the two charges with the most left to refund, as they were before the answer.
    pub(crate) charges: &'a [Charge],
}

/// What is to be written, and the operation as it has ended.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) changes: Changes,
    pub(crate) operation: Operation,
}

/// Applies the answer to an open operation to its payment. The changes open the operation that follows by itself, if one
/// does.
pub(crate) fn settle(payment: Payment, answered: Answered<'_>) -> Result<Settled, Error> {
    let mut operation = answered.operation.clone();
    operation.end(answered.outcome);
    let mut changes = Changes::none(answered.facility, payment);
    changes.operations.push(Update::ended(&operation));
    apply(&mut changes, &operation, answered)?;
    Ok(Settled { changes, operation })
}

/// Applies the answer to what follows by itself, which has come already.
pub(crate) fn settle_next(settled: Settled, answered: Answered<'_>) -> Result<Settled, Error> {
    let Settled {
        mut changes,
        mut operation,
    } = settled;
    if let Some(next) = changes.opened.take() {
        operation = next.operation;
        operation.end(answered.outcome);
        changes.followed_by(&operation);
        apply(&mut changes, &operation, answered)?;
    }
    Ok(Settled { changes, operation })
}

fn apply(changes: &mut Changes, operation: &Operation, answered: Answered<'_>) -> Result<(), Error> {
    let next = match answered.outcome {
        Outcome::Approved { reference } => approved(changes, operation, reference, answered)?,
        Outcome::Refused { reason } => refused(changes, operation, reason)?,
    };
    changes.save(answered.now);
    if let Some(next) = next {
        changes.open(next, answered.lease, None);
    }
    Ok(())
}

fn approved(
    changes: &mut Changes,
    operation: &Operation,
    reference: &str,
    answered: Answered<'_>,
) -> Result<Option<Operation>, Error> {
    let amount = operation.amount;
    let payment = &mut changes.payment;
    match operation.kind {
        Kind::Authorize => {
            let expires_at = answered.now + answered.lifetime;
            payment.authorized(amount.minor(), reference, expires_at)?;
            let event = publish::authorized(payment, amount);
            changes.tell(operation.request_id, &event);
            return Ok(operation.then_capture.then(|| operation.next(Kind::Capture)));
        }
        Kind::Capture => {
            payment.captured(amount.minor())?;
            let origin = origin(payment, operation);
            let event = publish::captured(payment, amount);
            changes.moved(operation.authorization_id, amount.minor(), 0);
            changes.book(Transaction::payment_captured(origin, amount))?;
            changes.tell(operation.request_id, &event);
        }
        Kind::Void => {
            payment.voided()?;
            let event = publish::voided(payment, &operation.reason);
            changes.tell(operation.request_id, &event);
        }
        Kind::Expire => expire(changes, operation)?,
        Kind::Release => {}
        Kind::Refund => return refund(changes, operation, answered.charges),
    }
    Ok(None)
}

fn refused(changes: &mut Changes, operation: &Operation, reason: &str) -> Result<Option<Operation>, Error> {
    let payment = &mut changes.payment;
    match operation.kind {
        Kind::Authorize => {
            payment.declined(reason)?;
            let event = publish::declined(payment, reason);
            changes.tell(operation.request_id, &event);
        }
        // The share stays authorized: its saga decides. A balance has nobody but the patient, who may try another
        // method; what was set aside is of no use any more.
        Kind::Capture if payment.purpose == Purpose::Balance => {
            payment.declined(reason)?;
            let event = publish::declined(payment, reason);
            changes.tell(operation.request_id, &event);
            return Ok(Some(operation.next(Kind::Release)));
        }
        // The authorization that the void has overtaken is the only thing left to find out about.
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
        // It has lapsed at the card network as well, whatever that says.
        Kind::Expire => expire(changes, operation)?,
        Kind::Refund => {
            payment.touch();
            changes.refund = Some((operation.id, RefundState::Failed));
        }
    }
    Ok(None)
}

fn expire(changes: &mut Changes, operation: &Operation) -> Result<(), Error> {
    changes.payment.expired()?;
    let event = publish::voided(&changes.payment, "AUTHORIZATION_EXPIRED");
    changes.tell(operation.request_id, &event);
    Ok(())
}

fn refund(
    changes: &mut Changes,
    operation: &Operation,
    charges: &[Charge],
) -> Result<Option<Operation>, Error> {
    let amount = operation.amount;
    changes.payment.refunded(amount.minor())?;
    changes.moved(operation.authorization_id, 0, amount.minor());
    changes.refund = Some((operation.id, RefundState::Succeeded));
    let origin = origin(&changes.payment, operation);
    changes.book(Transaction::refund(origin, amount))?;
    let event = publish::refunded(&changes.payment, amount, operation.id);
    changes.tell(operation.request_id, &event);
    if operation.remaining == 0 {
        return Ok(None);
    }
    // The charge was too small for the whole refund: the next one follows.
    let charge = fullest(charges, operation).ok_or(Error::Orphan(changes.payment.id))?;
    let part = operation.remaining.min(charge.left);
    changes.payment.touch();
    Ok(Some(Operation {
        authorization_id: charge.authorization_id,
        amount: Money::new(part, amount.currency()),
        reason: operation.reason.clone(),
        remaining: operation.remaining - part,
        ..operation.next(Kind::Refund)
    }))
}

/// The charge with the most left to refund after `refunded`.
fn fullest(charges: &[Charge], refunded: &Operation) -> Option<Charge> {
    let afterwards = charges.iter().map(|charge| {
        let is_refunded = charge.authorization_id == refunded.authorization_id;
        let given_back = if is_refunded { refunded.amount.minor() } else { 0 };
        Charge {
            left: charge.left - given_back,
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
#[path = "settle/tests.rs"]
mod tests;

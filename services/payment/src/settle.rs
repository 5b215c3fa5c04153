//! What the processor's final answer changes: the payment, the ledger, the events. All in one transaction, which the
//! caller owns.

use chassis::Facility;
use money::Money;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::{
    desk::Desk,
    error::Error,
    ledger::{self, Booking, Transaction},
    operation::{Kind, Operation, State},
    payment::{self, Payment, Purpose},
    processor::Outcome,
    publish,
    store::{self, RefundState, operations},
};

/// Applies the answer to an open operation to its locked payment, and closes the operation. Gives back the operation
/// that follows by itself, if one does; it is leased to the caller.
pub(crate) async fn settle(
    desk: &Desk,
    conn: &mut PgConnection,
    facility: &Facility,
    payment: &mut Payment,
    operation: &mut Operation,
    outcome: &Outcome,
) -> Result<Option<Operation>, Error> {
    operation.end(outcome);
    operations::close(conn, operation).await?;
    let next = match outcome {
        Outcome::Approved { reference } => {
            approved(desk, conn, facility, payment, operation, reference).await?
        }
        Outcome::Refused { reason } => refused(conn, facility, payment, operation, reason).await?,
    };
    store::save(conn, payment).await?;
    if let Some(next) = &next {
        desk.follow_up(conn, facility, next).await?;
        if next.kind == Kind::Refund {
            operations::insert_refund(conn, facility.as_str(), next).await?;
        }
    }
    Ok(next)
}

async fn approved(
    desk: &Desk,
    conn: &mut PgConnection,
    facility: &Facility,
    payment: &mut Payment,
    operation: &Operation,
    reference: &str,
) -> Result<Option<Operation>, Error> {
    let amount = operation.amount;
    match operation.kind {
        Kind::Authorize => {
            let expires_at = OffsetDateTime::now_utc() + desk.authorization.lifetime();
            payment.authorized(amount.minor(), reference, expires_at)?;
            let event = publish::authorized(payment, amount);
            publish::append(conn, facility, payment, operation.request_id, &event).await?;
            return Ok(operation.then_capture.then(|| operation.next(Kind::Capture)));
        }
        Kind::Capture => {
            payment.captured(amount.minor())?;
            operations::account(conn, operation.authorization_id, amount.minor(), 0).await?;
            book(
                conn,
                facility,
                Transaction::payment_captured(origin(payment, operation), amount),
            )
            .await?;
            let event = publish::captured(payment, amount);
            publish::append(conn, facility, payment, operation.request_id, &event).await?;
        }
        Kind::Void => {
            payment.voided()?;
            let event = publish::voided(payment, &operation.reason);
            publish::append(conn, facility, payment, operation.request_id, &event).await?;
        }
        Kind::Expire => expire(conn, facility, payment, operation).await?,
        Kind::Release => {}
        Kind::Refund => return refund(conn, facility, payment, operation, amount).await,
    }
    Ok(None)
}

async fn refused(
    conn: &mut PgConnection,
    facility: &Facility,
    payment: &mut Payment,
    operation: &Operation,
    reason: &str,
) -> Result<Option<Operation>, Error> {
    match operation.kind {
        Kind::Authorize => {
            payment.declined(reason)?;
            let event = publish::declined(payment, reason);
            publish::append(conn, facility, payment, operation.request_id, &event).await?;
        }
        // The share stays authorized: its saga decides. A balance has nobody but the patient, who may try another
        // method; what was set aside is of no use any more.
        Kind::Capture if payment.purpose == Purpose::Balance => {
            payment.declined(reason)?;
            let event = publish::declined(payment, reason);
            publish::append(conn, facility, payment, operation.request_id, &event).await?;
            return Ok(Some(operation.next(Kind::Release)));
        }
        // The authorization that the void has overtaken is the only thing left to find out about.
        Kind::Void
            if matches!(
                payment.state,
                payment::State::Authorizing | payment::State::Unknown
            ) =>
        {
            let at_once = std::time::Duration::ZERO;
            operations::postpone(conn, operation.authorization_id, State::Unknown, at_once).await?;
        }
        Kind::Capture | Kind::Void | Kind::Release => {}
        // It has lapsed at the card network as well, whatever that says.
        Kind::Expire => expire(conn, facility, payment, operation).await?,
        Kind::Refund => {
            payment.touch();
            operations::close_refund(conn, operation.id, RefundState::Failed).await?;
        }
    }
    Ok(None)
}

async fn expire(
    conn: &mut PgConnection,
    facility: &Facility,
    payment: &mut Payment,
    operation: &Operation,
) -> Result<(), Error> {
    payment.expired()?;
    let event = publish::voided(payment, "AUTHORIZATION_EXPIRED");
    publish::append(conn, facility, payment, operation.request_id, &event).await
}

async fn refund(
    conn: &mut PgConnection,
    facility: &Facility,
    payment: &mut Payment,
    operation: &Operation,
    amount: Money,
) -> Result<Option<Operation>, Error> {
    payment.refunded(amount.minor())?;
    operations::account(conn, operation.authorization_id, 0, amount.minor()).await?;
    operations::close_refund(conn, operation.id, RefundState::Succeeded).await?;
    book(
        conn,
        facility,
        Transaction::refund(origin(payment, operation), amount),
    )
    .await?;
    let event = publish::refunded(payment, amount, operation.id);
    publish::append(conn, facility, payment, operation.request_id, &event).await?;
    if operation.remaining == 0 {
        return Ok(None);
    }
    // The charge was too small for the whole refund: the next one follows.
    let charge = operations::charge_of(conn, payment.id)
        .await?
        .ok_or(Error::Orphan(payment.id))?;
    let part = operation.remaining.min(charge.left);
    payment.touch();
    Ok(Some(Operation {
        authorization_id: charge.authorization_id,
        amount: Money::new(part, amount.currency()),
        reason: operation.reason.clone(),
        remaining: operation.remaining - part,
        ..operation.next(Kind::Refund)
    }))
}

/// Books what there is to book.
pub(crate) async fn book(
    conn: &mut PgConnection,
    facility: &Facility,
    booking: Booking,
) -> Result<(), Error> {
    if let Some(transaction) = booking? {
        store::ledger::book(conn, facility.as_str(), &transaction).await?;
    }
    Ok(())
}

fn origin(payment: &Payment, operation: &Operation) -> ledger::Origin {
    ledger::Origin {
        order_id: payment.order_id,
        payment_id: Some(payment.id),
        causation_id: operation.request_id,
        source_id: operation.id,
    }
}

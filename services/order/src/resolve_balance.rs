//! A person decides what becomes of what is still open.

use chassis::idempotency::{self, Claim};
use uuid::Uuid;

use crate::{
    answer::{Answered, Reply, To},
    desk::{Desk, Request},
    error::Error,
    order::Order,
    store, told,
};

/// What becomes of what is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// What the payer refused is billed to the patient.
    BillPatient,
    /// All of it is written off, the patient's balance included.
    WriteOff,
}

/// Carries the decision out.
///
/// # Errors
/// FAILED_PRECONDITION when the order is not fulfilled, nothing is open, or the patient is paying the balance.
pub async fn resolve(
    desk: &Desk,
    request: &Request,
    id: Uuid,
    resolution: Resolution,
) -> Result<Answered, Error> {
    let reply = Reply {
        key: request.key.clone(),
        to: To::ResolveOrderBalance,
        lines: Vec::new().into(),
    };
    if resolution == Resolution::WriteOff {
        let mut tx = desk.database.begin(&request.facility).await?;
        let order = store::orders::get(&mut tx, id).await?;
        tx.commit().await?;
        release_balance(
            desk,
            request,
            &order.ok_or_else(|| Error::NoOrder(id.to_string()))?,
        )
        .await?;
    }

    let mut tx = desk.database.begin(&request.facility).await?;
    let claimed = idempotency::claim(&mut tx, &request.facility, &request.key, id).await?;
    if let Claim::Answered(bytes) = claimed {
        return Ok(Answered::again(bytes));
    }
    let order = store::orders::lock(&mut tx, id).await?;
    let mut order = order.ok_or_else(|| Error::NoOrder(id.to_string()))?;
    let from = order.version;
    let state = order.state;
    let resolved = match resolution {
        Resolution::BillPatient => order.bill_patient()?,
        Resolution::WriteOff => order.write_off()?,
    };
    match resolved {
        Some(_) => {}
        None if state.is_fulfilled() => {
            let text = "nothing is open that could be resolved so".to_owned();
            return Err(Error::Precondition("NOTHING_OPEN", text));
        }
        None => {
            let text = format!("an order that is {state} has no balance to resolve");
            return Err(Error::Precondition(state.refusal(), text));
        }
    }
    store::orders::save(&mut tx, &order, from).await?;
    events::append(&mut tx, &told::of_order(&mut order, None, None)).await?;
    let lines = store::lines::of(&mut tx, id).await?.into();
    let bytes = Reply { lines, ..reply }.store(&mut tx, &order).await?;
    tx.commit().await?;
    desk.outbox.wake();
    desk.changes.tell(id);
    Ok(Answered::first(bytes))
}

/// Before a balance is written off, its payment is let go, so that it cannot be paid as well. Whoever may decide about
/// balances need not be allowed to void payments, so the service asks in its own name.
async fn release_balance(desk: &Desk, request: &Request, order: &Order) -> Result<(), Error> {
    if order.patient_balance() == 0 {
        return Ok(());
    }
    let context = desk
        .engine
        .own_context(&request.facility)?
        .with_deadline(request.answer_by);
    let key = Uuid::new_v5(&order.id, request.key.request_id().as_bytes());
    let voided = desk.participants.void_balance(&context, order, key).await;
    voided.map_err(|status| Error::Upstream(Box::new(status)))
}

//! A claim is taken out of the process, or kept from entering it.

use chassis::{Facility, idempotency, idempotency::Key};
use proto::claims::v1::{ClaimWithdrawn, WithdrawClaimRequest, WithdrawClaimResponse};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    announce::event,
    balance::{Balance, Line},
    claim::{State, Step},
    desk::{Answer, Asked, Desk},
    error::Error,
    get_claim,
    grpc::uuid,
    store, view,
};

/// The method's name, as keys know it.
pub const METHOD: &str = "claims.v1.ClaimService/WithdrawClaim";

/// Withdraws the order's claim. If none has arrived, a late one will be refused. A withdrawn one stays as it is.
///
/// # Errors
/// [`Error::Paid`], and [`Error::FilingInProgress`] while the claim is on its way to the post office.
pub async fn withdraw(
    desk: &Desk,
    facility: &Facility,
    request: WithdrawClaimRequest,
) -> Result<Answer<WithdrawClaimResponse>, Error> {
    let key = Key::of(METHOD, &request.request_id, &request)?;
    let order_id = uuid("order_id", &request.order_id)?;
    let mut tx = desk.database.begin(facility).await?;
    match idempotency::claim(&mut tx, facility, &key, order_id).await? {
        idempotency::Claim::New => {}
        idempotency::Claim::Answered(answer) => return Ok(Answer::Repeated(answer)),
        idempotency::Claim::Running { .. } => return Err(Error::InProgress),
    }
    store::drafts::lock_orders(&mut tx, &[order_id]).await?;
    let (claim, events) = match store::id_of_order(&mut tx, facility.as_str(), order_id).await? {
        None => {
            store::drafts::bury(&mut tx, facility.as_str(), order_id, &request.reason).await?;
            (None, Vec::new())
        }
        Some(id) => {
            let withdrawn = take_out(&mut tx, facility, id, request.reason).await?;
            (Some(get_claim::show(&mut tx, id).await?), withdrawn)
        }
    };
    desk.close(
        tx,
        Asked { facility, key: &key },
        &events,
        WithdrawClaimResponse { claim },
    )
    .await
}

/// Withdraws the claim of an order that ended, if there is one. Leaves no tombstone: nothing is on its way any more.
///
/// # Errors
/// As [`withdraw`].
pub async fn of_ended_order(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
    reason: String,
) -> Result<(), Error> {
    store::drafts::lock_orders(tx, &[order_id]).await?;
    if let Some(id) = store::id_of_order(tx, facility.as_str(), order_id).await? {
        let withdrawn = take_out(tx, facility, id, reason).await?;
        events::append(tx, &withdrawn).await?;
    }
    Ok(())
}

async fn take_out(
    conn: &mut PgConnection,
    facility: &Facility,
    id: Uuid,
    reason: String,
) -> Result<Vec<events::Event>, Error> {
    let record = store::lock(conn, id)
        .await?
        .ok_or_else(|| Error::NoSuchClaim(id.to_string()))?;
    if record.state == State::Withdrawn {
        return Ok(Vec::new());
    }
    if record.filing {
        return Err(Error::FilingInProgress);
    }
    record.state.allows(Step::Withdraw)?;
    let lines: Vec<Line> = store::remittances::lines(conn, &[id])
        .await?
        .iter()
        .map(Line::from)
        .collect();
    if Balance::of(&view::asked(&record.details), &lines).net_paid() > 0 {
        return Err(Error::Paid);
    }
    let version = record.version + 1;
    store::withdraw(conn, id, version).await?;
    let withdrawn = ClaimWithdrawn {
        claim_id: id.to_string(),
        order_id: record.order_id.to_string(),
        reason,
    };
    Ok(vec![event(facility, id, version, &withdrawn)])
}

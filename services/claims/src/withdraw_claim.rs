//! WithdrawClaim: withdraws an order's claim, or prevents one that has not arrived yet.

use chassis::{Facility, audit::Origin, idempotency::Key};
use proto::claims::v1::{WithdrawClaimRequest, WithdrawClaimResponse};
use sqlx::PgConnection;
use tracing::Span;
use uuid::Uuid;

use crate::{
    app::App,
    apply_withdrawals::{Withdrawal, lock_by_orders, mark_withdrawn, withdrawn_event},
    claim::State,
    error::Error,
    request::{self, parse_uuid},
    response::Response,
    store::drafts,
};

/// The method's name in idempotency keys.
pub const METHOD: &str = "claims.v1.ClaimService/WithdrawClaim";

/// Withdraws the order's claim. If the order has none yet, a claim that arrives later is refused. A withdrawn
/// claim stays unchanged.
///
/// # Errors
/// [`Error::Paid`], and [`Error::SubmissionInProgress`] while the claim is being submitted to the post office.
pub async fn execute(
    app: &App,
    facility: &Facility,
    message: WithdrawClaimRequest,
) -> Result<Response<WithdrawClaimResponse>, Error> {
    let key = Key::new(METHOD, &message.request_id, &message)?;
    let withdrawal = Withdrawal {
        facility: facility.clone(),
        order_id: parse_uuid("order_id", &message.order_id)?,
        reason: message.reason,
        key,
        origin: Origin::current(),
        span: Span::current(),
    };
    let result = app
        .withdrawal_batcher
        .submit(withdrawal, request::deadline())
        .await;
    result.map_err(Error::from)?
}

/// Withdraws the claim of an order that has ended, if there is one. Inserts no tombstone, because no claim can
/// arrive after the order's end.
///
/// # Errors
/// Those of [`execute`].
pub async fn withdraw_for_ended_order(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
    reason: String,
) -> Result<(), Error> {
    drafts::lock_orders(tx, &[order_id]).await?;
    let mut claims = lock_by_orders(tx, &[(facility, order_id)]).await?;
    let Some(claim) = claims.remove(&order_id) else {
        return Ok(());
    };
    let mut record = claim?;
    if record.state == State::Withdrawn {
        return Ok(());
    }
    mark_withdrawn(tx, &mut [(facility, &mut record)]).await?;
    events::append(tx, &[withdrawn_event(facility, &record, reason)]).await?;
    Ok(())
}

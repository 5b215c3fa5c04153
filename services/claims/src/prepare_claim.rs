//! A claim's details become a validated draft, if no rule is broken.

use chassis::{Facility, idempotency, idempotency::Key};
use proto::claims::v1::{
    self as wire, ClaimDetails, ClaimPrepared, PrepareClaimRequest, PrepareClaimResponse,
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    announce::event,
    claim::State,
    desk::{Answer, Asked, Desk},
    error::Error,
    grpc::uuid,
    rules, store, view,
};

/// The method's name, as keys know it.
pub const METHOD: &str = "claims.v1.ClaimService/PrepareClaim";

/// Keeps the draft, or only checks it.
///
/// # Errors
/// [`Error::Invalid`] with every broken rule; [`Error::ClaimKnown`], [`Error::OrderBilled`] and
/// [`Error::OrderWithdrawn`] by what is there already.
pub async fn prepare(
    desk: &Desk,
    facility: &Facility,
    request: PrepareClaimRequest,
) -> Result<Answer<PrepareClaimResponse>, Error> {
    let key = Key::of(METHOD, &request.request_id, &request)?;
    let order_id = uuid("order_id", &request.order_id)?;
    let details = request.details.unwrap_or_default();
    let broken = checked(&details);
    if !broken.is_empty() {
        return Err(Error::Invalid(broken));
    }
    let draft = draft(order_id, details);
    if request.validate_only {
        return validate_only(desk, facility, draft).await;
    }

    let mut tx = desk.database.begin(facility).await?;
    match idempotency::claim(&mut tx, facility, &key, draft.id).await? {
        idempotency::Claim::New => {}
        idempotency::Claim::Answered(answer) => return Ok(Answer::Repeated(answer)),
        idempotency::Claim::Running { .. } => return Err(Error::InProgress),
    }
    store::lock_order(&mut tx, order_id).await?;
    if store::is_withdrawn(&mut tx, facility.as_str(), order_id).await? {
        return Err(Error::OrderWithdrawn);
    }
    store::insert(&mut tx, facility.as_str(), &draft).await?;
    let prepared = ClaimPrepared {
        claim_id: draft.id.to_string(),
        order_id: order_id.to_string(),
        net: draft.details.net.clone(),
    };
    let events = [event(facility, draft.id, draft.version, &prepared)];
    let answer = PrepareClaimResponse {
        claim: Some(view::claim(draft, Vec::new())),
    };
    desk.close(tx, Asked { facility, key: &key }, &events, answer)
        .await
}

/// The broken rules, by their paths in the request.
pub(crate) fn checked(details: &ClaimDetails) -> Vec<rules::Violation> {
    let mut broken = rules::submission(details);
    for violation in &mut broken {
        violation.field.insert_str(0, "details.");
    }
    broken
}

fn draft(order_id: Uuid, details: ClaimDetails) -> store::Record {
    // PostgreSQL keeps microseconds; the answer must say what is kept.
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(now.microsecond() * 1_000).unwrap_or(now);
    store::Record {
        id: Uuid::now_v7(),
        order_id,
        id_payer: details.id_payer.clone(),
        details,
        state: State::Validated,
        cycle: 1,
        remitter_id: String::new(),
        rejection: String::new(),
        version: 1,
        submitted_at: None,
        filing_epoch: 0,
        filing: false,
        created_at: now,
        updated_at: now,
    }
}

/// What would be kept, without its identifier; the same refusals, and nothing kept.
async fn validate_only(
    desk: &Desk,
    facility: &Facility,
    draft: store::Record,
) -> Result<Answer<PrepareClaimResponse>, Error> {
    let mut tx = desk.database.begin(facility).await?;
    if store::is_withdrawn(&mut tx, facility.as_str(), draft.order_id).await? {
        return Err(Error::OrderWithdrawn);
    }
    store::insert(&mut tx, facility.as_str(), &draft).await?;
    tx.rollback().await?;
    let claim = wire::Claim {
        id: String::new(),
        ..view::claim(draft, Vec::new())
    };
    Ok(Answer::New(PrepareClaimResponse { claim: Some(claim) }))
}

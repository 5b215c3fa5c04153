//! PrepareClaim: checks a claim's details against the rules and stores a validated draft.

use chassis::{Facility, idempotency::Key};
use proto::claims::v1::{self as wire, ClaimDetails, PrepareClaimRequest, PrepareClaimResponse};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    app::App,
    claim::State,
    error::Error,
    grpc::encode,
    insert_drafts::Draft,
    request::{self, parse_uuid},
    response::Response,
    rules,
    store::{self, drafts},
};

/// The method's name in idempotency keys.
pub const METHOD: &str = "claims.v1.ClaimService/PrepareClaim";

/// Stores the draft, or only validates it.
///
/// # Errors
/// [`Error::Invalid`] with every broken rule; [`Error::ClaimKnown`], [`Error::OrderBilled`] or
/// [`Error::OrderWithdrawn`] if it conflicts with stored data.
pub async fn execute(
    app: &App,
    facility: &Facility,
    message: PrepareClaimRequest,
) -> Result<Response<PrepareClaimResponse>, Error> {
    let key = Key::new(METHOD, &message.request_id, &message)?;
    let order_id = parse_uuid("order_id", &message.order_id)?;
    let details = message.details.unwrap_or_default();
    let violations = check_details(&details);
    if !violations.is_empty() {
        return Err(Error::Invalid(violations));
    }
    let record = new_record(order_id, details);
    if message.validate_only {
        return validate_only(app, facility, record).await;
    }
    let draft = Draft::new(facility, key, record);
    let result = app.draft_batcher.submit(draft, request::deadline()).await;
    result.map_err(Error::from)?
}

/// The rules that the details break, with field paths relative to the request.
pub(crate) fn check_details(details: &ClaimDetails) -> Vec<rules::Violation> {
    let mut violations = rules::check_submission(details);
    for violation in &mut violations {
        violation.field.insert_str(0, "details.");
    }
    violations
}

fn new_record(order_id: Uuid, details: ClaimDetails) -> store::Record {
    // PostgreSQL stores microseconds, and the response must show the stored value.
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
        lease_epoch: 0,
        is_submitting: false,
        created_at: now,
        updated_at: now,
    }
}

/// The draft that would be stored, without its id. Fails as storing it would, and writes nothing.
async fn validate_only(
    app: &App,
    facility: &Facility,
    record: store::Record,
) -> Result<Response<PrepareClaimResponse>, Error> {
    let draft = drafts::Draft {
        facility,
        record: &record,
    };
    let mut tx = app.database.begin(facility).await?;
    let conflicts = drafts::list_conflicts(&mut tx, &[draft]).await?;
    tx.rollback().await?;
    if let Some(conflict) = conflicts.into_iter().flatten().next() {
        return Err(conflict.into());
    }
    let claim = wire::Claim {
        id: String::new(),
        ..encode::claim(record, Vec::new())
    };
    Ok(Response::New(PrepareClaimResponse { claim: Some(claim) }))
}

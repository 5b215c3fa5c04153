//! ResubmitClaim: submits a claim again, with a reason and optionally corrected.

use chassis::{Facility, idempotency, idempotency::Key};
use proto::claims::v1::{Claim, ClaimResubmitted, ResubmitClaimRequest, ResubmitClaimResponse};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    claim::{State, Step},
    error::Error,
    events::to_event,
    get_claim, prepare_claim,
    request::{Request, parse_uuid},
    response::Response,
    rules,
    store::{self, Record, submissions},
    submission::{self, Lease},
};

/// The method's name in idempotency keys.
pub const METHOD: &str = "claims.v1.ClaimService/ResubmitClaim";

/// Starts the claim's next cycle and submits it. If the post office cannot be reached, the claim stays RESUBMITTED
/// and the background worker submits it later.
///
/// # Errors
/// [`Error::WrongState`]; [`Error::Invalid`] with every broken rule; [`Error::SubmissionInProgress`].
pub async fn execute(
    app: &App,
    facility: &Facility,
    message: ResubmitClaimRequest,
) -> Result<Response<ResubmitClaimResponse>, Error> {
    let key = Key::new(METHOD, &message.request_id, &message)?;
    let request = Request { facility, key: &key };
    let id = match start_cycle(app, request, &message).await? {
        CycleStart::Replayed(bytes) => return Ok(Response::Replayed(bytes)),
        CycleStart::Submitted(id) => id,
        CycleStart::Leased(lease) => match submission::call_post_office(app, &lease).await {
            Ok(verdict) => return app.outcomes.respond((*lease, verdict), &key, response).await,
            Err(Error::PostOffice(problem)) => {
                let id = lease.claim();
                tracing::warn!(claim.id = %id, error.message = problem, "a resubmission waits for the post office");
                id
            }
            Err(error) => return Err(error),
        },
    };
    let mut tx = app.database.begin(facility).await?;
    let claim = get_claim::load(&mut tx, id).await?;
    app.commit(tx, request, &[], response(claim)).await
}

fn response(claim: Claim) -> ResubmitClaimResponse {
    ResubmitClaimResponse { claim: Some(claim) }
}

enum CycleStart {
    /// The next cycle is open and the claim is leased for its submission.
    Leased(Box<Lease>),
    /// An interrupted execution of this request opened the cycle, and the background worker has submitted it.
    Submitted(Uuid),
    /// The stored response to an earlier execution of this request.
    Replayed(Vec<u8>),
}

async fn start_cycle(
    app: &App,
    request: Request<'_>,
    message: &ResubmitClaimRequest,
) -> Result<CycleStart, Error> {
    let deadline = submission::wait_deadline(app);
    loop {
        let mut tx = app.database.begin(request.facility).await?;
        let id = find_id(&mut tx, request.facility, message).await?;
        // The row is locked first: a call that held it before has stored its response by now.
        let found = store::lock(&mut tx, id).await?;
        let first = match idempotency::acquire(&mut tx, request.facility, request.key, id).await? {
            idempotency::KeyState::Completed(bytes) => return Ok(CycleStart::Replayed(bytes)),
            idempotency::KeyState::New => true,
            idempotency::KeyState::InProgress { .. } => false,
        };
        let mut record = found.ok_or_else(|| Error::ClaimNotFound(id.to_string()))?;
        if record.is_submitting {
            tx.rollback().await?;
            if let Some(bytes) = submission::wait_for_response(app, request, deadline).await? {
                return Ok(CycleStart::Replayed(bytes));
            }
            continue;
        }
        if first {
            write_cycle(&mut tx, request.facility, &mut record, message).await?;
        } else if record.state != State::Resubmitted {
            return Ok(CycleStart::Submitted(id));
        }
        let lease_request = submissions::LeaseRequest {
            facility: request.facility,
            id,
            purpose: submissions::Purpose::FollowUp,
        };
        let lease_ms = submission::lease_ms(&app.post_office_settings);
        let leased = submissions::acquire_leases(&mut tx, &[lease_request], lease_ms).await?;
        let (record, _) = leased
            .into_values()
            .find(|(_, is_leased)| *is_leased)
            .ok_or(Error::SubmissionInProgress)?;
        tx.commit().await?;
        app.outbox.wake();
        return Ok(CycleStart::Leased(Box::new(Lease::new(request.facility, record))));
    }
}

async fn find_id(
    conn: &mut PgConnection,
    facility: &Facility,
    message: &ResubmitClaimRequest,
) -> Result<Uuid, Error> {
    if !message.id.is_empty() {
        return Ok(parse_uuid("id", &message.id)?);
    }
    let details = message.details.clone().unwrap_or_default();
    get_claim::find_id(conn, facility, &details.provider_id, &details.claim_id).await
}

async fn write_cycle(
    conn: &mut PgConnection,
    facility: &Facility,
    record: &mut Record,
    message: &ResubmitClaimRequest,
) -> Result<(), Error> {
    record.state.allows(Step::Resubmit)?;
    let resubmission = message.resubmission.clone().unwrap_or_default();
    let remitted = !store::remittances::list_lines(conn, &[record.id])
        .await?
        .is_empty();
    let mut violations = message
        .details
        .as_ref()
        .map(prepare_claim::check_details)
        .unwrap_or_default();
    let submitted = rules::SubmittedClaim {
        details: &record.details,
        remitted,
    };
    violations.extend(rules::check_resubmission(
        submitted,
        &resubmission,
        message.details.as_ref(),
    ));
    if !violations.is_empty() {
        return Err(Error::Invalid(violations));
    }

    if let Some(corrected) = &message.details {
        record.details.clone_from(corrected);
    }
    record.state = State::Resubmitted;
    record.cycle += 1;
    record.version += 1;
    let cycle = submissions::NewCycle {
        id: record.id,
        cycle: record.cycle,
        version: record.version,
        details: &record.details,
        resubmission: &resubmission,
    };
    submissions::start_cycle(conn, facility, cycle).await?;
    let resubmitted = ClaimResubmitted {
        claim_id: record.id.to_string(),
        order_id: record.order_id.to_string(),
        cycle: record.cycle,
    };
    events::append(
        conn,
        &[to_event(facility, record.id, record.version, &resubmitted)],
    )
    .await?;
    Ok(())
}

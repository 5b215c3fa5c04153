//! A claim is filed again, with a reason and perhaps corrected.

use chassis::{Facility, idempotency, idempotency::Key};
use proto::claims::v1::{Claim, ClaimResubmitted, ResubmitClaimRequest, ResubmitClaimResponse};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    announce::event,
    claim::{State, Step},
    desk::{Answer, Asked, Desk},
    error::Error,
    filing::{self, Lease},
    get_claim,
    grpc::uuid,
    prepare_claim, rules,
    store::{self, Record, filings},
};

/// The method's name, as keys know it.
pub const METHOD: &str = "claims.v1.ClaimService/ResubmitClaim";

/// Opens the next cycle and hands the claim in. When the post office cannot be reached the claim stays RESUBMITTED, and
/// the background worker hands it in later.
///
/// # Errors
/// [`Error::WrongState`]; [`Error::Invalid`] with every broken rule; [`Error::FilingInProgress`].
pub async fn resubmit(
    desk: &Desk,
    facility: &Facility,
    request: ResubmitClaimRequest,
) -> Result<Answer<ResubmitClaimResponse>, Error> {
    let key = Key::of(METHOD, &request.request_id, &request)?;
    let asked = Asked { facility, key: &key };
    let id = match reopen(desk, asked, &request).await? {
        Turn::Answered(answer) => return Ok(Answer::Repeated(answer)),
        Turn::Filed(id) => id,
        Turn::Ours(lease) => match filing::hand_in(desk, &lease).await {
            Ok(verdict) => return desk.outcomes.answer((*lease, verdict), &key, response).await,
            Err(Error::PostOffice(problem)) => {
                let id = lease.claim();
                tracing::warn!(claim.id = %id, error.message = problem, "a resubmission waits for the post office");
                id
            }
            Err(error) => return Err(error),
        },
    };
    let mut tx = desk.database.begin(facility).await?;
    let claim = get_claim::show(&mut tx, id).await?;
    desk.close(tx, asked, &[], response(claim)).await
}

fn response(claim: Claim) -> ResubmitClaimResponse {
    ResubmitClaimResponse { claim: Some(claim) }
}

enum Turn {
    /// The next cycle is open and ours to hand in.
    Ours(Box<Lease>),
    /// A try that was cut short has opened it, and the background worker has handed it in.
    Filed(Uuid),
    Answered(Vec<u8>),
}

async fn reopen(desk: &Desk, asked: Asked<'_>, request: &ResubmitClaimRequest) -> Result<Turn, Error> {
    let until = filing::patience(desk);
    loop {
        let mut tx = desk.database.begin(asked.facility).await?;
        let id = named(&mut tx, asked.facility, request).await?;
        // The row comes first: whoever held it has stored the answer by the time it is ours.
        let found = store::lock(&mut tx, id).await?;
        let first = match idempotency::claim(&mut tx, asked.facility, asked.key, id).await? {
            idempotency::Claim::Answered(answer) => return Ok(Turn::Answered(answer)),
            idempotency::Claim::New => true,
            idempotency::Claim::Running { .. } => false,
        };
        let mut record = found.ok_or_else(|| Error::NoSuchClaim(id.to_string()))?;
        if record.filing {
            tx.rollback().await?;
            if let Some(answer) = filing::wait(desk, asked, until).await? {
                return Ok(Turn::Answered(answer));
            }
            continue;
        }
        if first {
            next_cycle(&mut tx, asked.facility, &mut record, request).await?;
        } else if record.state != State::Resubmitted {
            return Ok(Turn::Filed(id));
        }
        let wanted = filings::Wanted {
            facility: asked.facility,
            id,
            purpose: filings::Purpose::FollowUp,
        };
        let leased = filings::lease(&mut tx, &[wanted], filing::lease_ms(&desk.filing)).await?;
        let (record, _) = leased
            .into_values()
            .find(|(_, is_leased)| *is_leased)
            .ok_or(Error::FilingInProgress)?;
        tx.commit().await?;
        desk.outbox.wake();
        return Ok(Turn::Ours(Box::new(Lease::new(asked.facility, record))));
    }
}

async fn named(
    conn: &mut PgConnection,
    facility: &Facility,
    request: &ResubmitClaimRequest,
) -> Result<Uuid, Error> {
    if !request.id.is_empty() {
        return Ok(uuid("id", &request.id)?);
    }
    let details = request.details.clone().unwrap_or_default();
    get_claim::id_of(conn, facility, &details.provider_id, &details.claim_id).await
}

async fn next_cycle(
    conn: &mut PgConnection,
    facility: &Facility,
    record: &mut Record,
    request: &ResubmitClaimRequest,
) -> Result<(), Error> {
    record.state.allows(Step::Resubmit)?;
    let why = request.resubmission.clone().unwrap_or_default();
    let remitted = !store::remittances::lines(conn, &[record.id]).await?.is_empty();
    let mut broken = request
        .details
        .as_ref()
        .map(prepare_claim::checked)
        .unwrap_or_default();
    let filed = rules::Filed {
        details: &record.details,
        remitted,
    };
    broken.extend(rules::resubmission(filed, &why, request.details.as_ref()));
    if !broken.is_empty() {
        return Err(Error::Invalid(broken));
    }

    if let Some(corrected) = &request.details {
        record.details.clone_from(corrected);
    }
    record.state = State::Resubmitted;
    record.cycle += 1;
    record.version += 1;
    let next = filings::Reopening {
        id: record.id,
        cycle: record.cycle,
        version: record.version,
        details: &record.details,
        why: &why,
    };
    filings::reopen(conn, facility, next).await?;
    let resubmitted = ClaimResubmitted {
        claim_id: record.id.to_string(),
        order_id: record.order_id.to_string(),
        cycle: record.cycle,
    };
    events::append(conn, &[event(facility, record.id, record.version, &resubmitted)]).await?;
    Ok(())
}

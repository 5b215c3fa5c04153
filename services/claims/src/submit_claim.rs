//! A validated claim is handed to the post office.

use chassis::{Facility, idempotency, idempotency::Key};
use proto::claims::v1::{SubmitClaimRequest, SubmitClaimResponse};
use uuid::Uuid;

use crate::{
    claim::Step,
    desk::{Answer, Asked, Desk},
    error::Error,
    filing::{self, Lease},
    get_claim,
    grpc::uuid,
    store,
};

/// The method's name, as keys know it.
pub const METHOD: &str = "claims.v1.ClaimService/SubmitClaim";

/// Hands the claim in and answers what came of it.
///
/// # Errors
/// [`Error::WrongState`], [`Error::PostOffice`] (nothing has changed then), [`Error::FilingInProgress`].
pub async fn submit(
    desk: &Desk,
    facility: &Facility,
    request: SubmitClaimRequest,
) -> Result<Answer<SubmitClaimResponse>, Error> {
    let key = Key::of(METHOD, &request.request_id, &request)?;
    let asked = Asked { facility, key: &key };
    let lease = match take(desk, asked, uuid("id", &request.id)?).await? {
        Turn::Ours(lease) => lease,
        Turn::Answered(answer) => return Ok(Answer::Repeated(answer)),
    };
    let verdict = filing::hand_in(desk, facility, &lease).await?;
    settle(desk, asked, &lease, verdict).await
}

enum Turn {
    Ours(Box<Lease>),
    Answered(Vec<u8>),
}

/// Claims the key and the claim together. A key that is there already belongs to a try that was cut short or is going
/// on: whoever gets the lease carries on.
async fn take(desk: &Desk, asked: Asked<'_>, id: Uuid) -> Result<Turn, Error> {
    let until = filing::patience(desk);
    loop {
        let mut tx = desk.database.begin(asked.facility).await?;
        // The row comes first: whoever held it has stored the answer by the time it is ours.
        let found = store::lock(&mut tx, id).await?;
        let claimed = idempotency::claim(&mut tx, asked.facility, asked.key, id).await?;
        if let idempotency::Claim::Answered(answer) = claimed {
            return Ok(Turn::Answered(answer));
        }
        let record = found.ok_or_else(|| Error::NoSuchClaim(id.to_string()))?;
        if record.filing {
            tx.rollback().await?;
            if let Some(answer) = filing::wait(desk, asked, until).await? {
                return Ok(Turn::Answered(answer));
            }
            continue;
        }
        record.state.allows(Step::Submit)?;
        let lease = filing::lease(&mut tx, desk, asked.facility, &record).await?;
        tx.commit().await?;
        return Ok(Turn::Ours(Box::new(lease)));
    }
}

async fn settle(
    desk: &Desk,
    asked: Asked<'_>,
    lease: &Lease,
    verdict: crate::post_office::Verdict,
) -> Result<Answer<SubmitClaimResponse>, Error> {
    let mut tx = desk.database.begin(asked.facility).await?;
    let events = filing::settle(&mut tx, desk, asked.facility, lease, verdict).await?;
    let claim = get_claim::show(&mut tx, lease.claim()).await?;
    desk.close(tx, asked, &events, SubmitClaimResponse { claim: Some(claim) })
        .await
}

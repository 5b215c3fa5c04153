//! A validated claim is handed to the post office.

use chassis::{Facility, idempotency::Key};
use proto::claims::v1::{SubmitClaimRequest, SubmitClaimResponse};
use uuid::Uuid;

use crate::{
    desk::{Answer, Asked, Desk},
    error::Error,
    filing::{
        self,
        leases::{Turn, Wanted},
    },
    grpc::uuid,
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
    let id = uuid("id", &request.id)?;
    let lease = match take(desk, asked, id).await? {
        Turn::Answered(answer) => return Ok(Answer::Repeated(answer)),
        Turn::Ours(lease) => *lease,
        Turn::Others => return Err(Error::FilingInProgress),
    };
    let verdict = filing::hand_in(desk, &lease).await?;
    let response = |claim| SubmitClaimResponse { claim: Some(claim) };
    desk.outcomes.answer((lease, verdict), &key, response).await
}

/// Leases the claim; while another call holds it, waits for that one's answer.
async fn take(desk: &Desk, asked: Asked<'_>, id: Uuid) -> Result<Turn, Error> {
    let until = filing::patience(desk);
    loop {
        let wanted = Wanted::submitted(asked.facility, id, asked.key);
        match desk.leases.take(wanted).await? {
            Turn::Others => {}
            turn => return Ok(turn),
        }
        if let Some(answer) = filing::wait(desk, asked, until).await? {
            return Ok(Turn::Answered(answer));
        }
    }
}

//! SubmitClaim: submits a validated claim to the post office.

use chassis::{Facility, idempotency::Key};
use proto::claims::v1::{SubmitClaimRequest, SubmitClaimResponse};
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    request::{Request, parse_uuid},
    response::Response,
    submission::{
        self,
        leases::{Acquisition, LeaseRequest},
    },
};

/// The method's name in idempotency keys.
pub const METHOD: &str = "claims.v1.ClaimService/SubmitClaim";

/// Submits the claim and returns it with the post office's verdict.
///
/// # Errors
/// [`Error::WrongState`], [`Error::PostOffice`] (nothing has changed then), [`Error::SubmissionInProgress`].
pub async fn execute(
    app: &App,
    facility: &Facility,
    message: SubmitClaimRequest,
) -> Result<Response<SubmitClaimResponse>, Error> {
    let key = Key::new(METHOD, &message.request_id, &message)?;
    let request = Request { facility, key: &key };
    let id = parse_uuid("id", &message.id)?;
    let lease = match acquire(app, request, id).await? {
        Acquisition::Replayed(bytes) => return Ok(Response::Replayed(bytes)),
        Acquisition::Leased(lease) => *lease,
        Acquisition::Unavailable => return Err(Error::SubmissionInProgress),
    };
    let verdict = submission::call_post_office(app, &lease).await?;
    let response = |claim| SubmitClaimResponse { claim: Some(claim) };
    app.outcomes.respond((lease, verdict), &key, response).await
}

/// Leases the claim. While another call holds the lease, waits for that call's response.
async fn acquire(app: &App, request: Request<'_>, id: Uuid) -> Result<Acquisition, Error> {
    let deadline = submission::wait_deadline(app);
    loop {
        let lease_request = LeaseRequest::for_submission(request.facility, id, request.key);
        match app.leases.acquire(lease_request).await? {
            Acquisition::Unavailable => {}
            acquisition => return Ok(acquisition),
        }
        if let Some(bytes) = submission::wait_for_response(app, request, deadline).await? {
            return Ok(Acquisition::Replayed(bytes));
        }
    }
}

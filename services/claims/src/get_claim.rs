//! One claim is read.

use chassis::{Facility, status};
use proto::claims::v1::{
    Claim, GetClaimAttachmentRequest, GetClaimAttachmentResponse, GetClaimRequest, GetClaimResponse,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{desk::Desk, error::Error, grpc::uuid, store, view};

/// Reads a claim by its identifier or by its number.
///
/// # Errors
/// [`Error::NoSuchClaim`], also for another facility's.
pub async fn get(
    desk: &Desk,
    facility: &Facility,
    request: GetClaimRequest,
) -> Result<GetClaimResponse, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let id = match request.id.as_str() {
        "" => id_of(&mut tx, facility, &request.provider_id, &request.claim_id).await?,
        id => uuid("id", id)?,
    };
    let claim = show(&mut tx, id).await?;
    tx.rollback().await?;
    Ok(GetClaimResponse { claim: Some(claim) })
}

/// Reads the attachment of one resubmission.
///
/// # Errors
/// NOT_FOUND, also for another facility's claim.
pub async fn attachment(
    desk: &Desk,
    facility: &Facility,
    request: GetClaimAttachmentRequest,
) -> Result<GetClaimAttachmentResponse, Error> {
    let id = uuid("id", &request.id)?;
    let mut tx = desk.database.begin(facility).await?;
    let found = store::attachment(&mut tx, id, request.cycle).await?;
    tx.rollback().await?;
    let missing = || status::not_found("resubmission", format!("{id}, cycle {}", request.cycle));
    Ok(GetClaimAttachmentResponse {
        attachment: found.ok_or_else(missing)?,
    })
}

/// The claim with all that belongs to it, as it stands in this transaction.
///
/// # Errors
/// [`Error::NoSuchClaim`].
pub async fn show(conn: &mut PgConnection, id: Uuid) -> Result<Claim, Error> {
    let found = store::read(conn, &[id]).await?.pop();
    Ok(view::whole(conn, found.ok_or_else(|| Error::NoSuchClaim(id.to_string()))?).await?)
}

/// The claim of this number.
///
/// # Errors
/// [`Error::NoSuchClaim`].
pub async fn id_of(
    conn: &mut PgConnection,
    facility: &Facility,
    provider_id: &str,
    claim_id: &str,
) -> Result<Uuid, Error> {
    let found = store::id_of_number(conn, facility.as_str(), provider_id, claim_id).await?;
    found.ok_or_else(|| Error::NoSuchClaim(format!("{provider_id}/{claim_id}")))
}

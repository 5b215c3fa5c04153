//! GetClaim: reads one claim.

use chassis::Facility;
use proto::claims::v1::{Claim, GetClaimRequest, GetClaimResponse};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{app::App, error::Error, grpc::encode, request::parse_uuid, store};

/// Reads a claim by its id or by its number.
///
/// # Errors
/// [`Error::ClaimNotFound`], also for another facility's claim.
pub async fn execute(
    app: &App,
    facility: &Facility,
    message: GetClaimRequest,
) -> Result<GetClaimResponse, Error> {
    let mut tx = app.database.begin(facility).await?;
    let id = match message.id.as_str() {
        "" => find_id(&mut tx, facility, &message.provider_id, &message.claim_id).await?,
        id => parse_uuid("id", id)?,
    };
    let claim = load(&mut tx, id).await?;
    tx.rollback().await?;
    Ok(GetClaimResponse { claim: Some(claim) })
}

/// Reads the claim with its remittance lines and resubmissions, as this transaction sees it.
///
/// # Errors
/// [`Error::ClaimNotFound`].
pub async fn load(conn: &mut PgConnection, id: Uuid) -> Result<Claim, Error> {
    let found = store::list(conn, &[id]).await?.pop();
    let record = found.ok_or_else(|| Error::ClaimNotFound(id.to_string()))?;
    Ok(encode::full_claim(conn, record).await?)
}

/// The id of the claim with this number.
///
/// # Errors
/// [`Error::ClaimNotFound`].
pub async fn find_id(
    conn: &mut PgConnection,
    facility: &Facility,
    provider_id: &str,
    claim_id: &str,
) -> Result<Uuid, Error> {
    let found = store::find_id(conn, facility.as_str(), provider_id, claim_id).await?;
    found.ok_or_else(|| Error::ClaimNotFound(format!("{provider_id}/{claim_id}")))
}

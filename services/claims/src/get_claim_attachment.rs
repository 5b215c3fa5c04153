//! GetClaimAttachment: reads the attachment of one resubmission.

use chassis::{Facility, status};
use proto::claims::v1::{GetClaimAttachmentRequest, GetClaimAttachmentResponse};

use crate::{app::App, error::Error, request::parse_uuid, store};

/// Reads the attachment of one resubmission.
///
/// # Errors
/// NOT_FOUND, also for another facility's claim.
pub async fn execute(
    app: &App,
    facility: &Facility,
    message: GetClaimAttachmentRequest,
) -> Result<GetClaimAttachmentResponse, Error> {
    let id = parse_uuid("id", &message.id)?;
    let mut tx = app.database.begin(facility).await?;
    let found = store::find_attachment(&mut tx, id, message.cycle).await?;
    tx.rollback().await?;
    let missing = || status::not_found("resubmission", format!("{id}, cycle {}", message.cycle));
    Ok(GetClaimAttachmentResponse {
        attachment: found.ok_or_else(missing)?,
    })
}

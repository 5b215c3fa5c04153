//! ResolveParkedLine: books or discards a parked remittance line, as a person decided.

use chassis::{Facility, idempotency, idempotency::Key};
use events::Event;
use proto::claims::v1::{ParkedResolution, ResolveParkedLineRequest, ResolveParkedLineResponse};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    booking::Booking,
    error::Error,
    get_claim,
    request::Request,
    response::Response,
    store::{
        self,
        parked::{ClaimNumber, ParkedLine},
        remittances::{Advice, NewLine},
    },
};

/// The method's name in idempotency keys.
pub const METHOD: &str = "claims.v1.ClaimService/ResolveParkedLine";

/// Books the line on its claim, regardless of its sender and of earlier identical lines, or discards it.
///
/// # Errors
/// [`Error::ParkedLineNotFound`], [`Error::ClaimNotSubmitted`], [`Error::UnknownActivity`].
pub async fn execute(
    app: &App,
    facility: &Facility,
    message: ResolveParkedLineRequest,
) -> Result<Response<ResolveParkedLineResponse>, Error> {
    let key = Key::new(METHOD, &message.request_id, &message)?;
    let request = Request { facility, key: &key };
    let mut tx = app.database.begin(facility).await?;
    match idempotency::acquire(&mut tx, facility, &key, Uuid::nil()).await? {
        idempotency::KeyState::New => {}
        idempotency::KeyState::Completed(bytes) => return Ok(Response::Replayed(bytes)),
        idempotency::KeyState::InProgress { .. } => return Err(Error::InProgress),
    }
    let missing = || Error::ParkedLineNotFound(message.id);
    let line = store::parked::find(&mut tx, facility.as_str(), message.id)
        .await?
        .ok_or_else(missing)?;
    let number = ClaimNumber {
        provider_id: &line.provider_id,
        claim_id: &line.claim_id,
    };
    store::parked::lock_numbers(&mut tx, &[(facility, number)]).await?;
    let (claim, events) = if message.resolution() == ParkedResolution::Book {
        let (claim, event) = book(&mut tx, facility, &line).await?;
        (Some(get_claim::load(&mut tx, claim).await?), vec![event])
    } else {
        if store::parked::discard(&mut tx, line.id, &message.reason).await? == 0 {
            return Err(missing());
        }
        (None, Vec::new())
    };
    tracing::info!(
        remittance.parked_line = line.id,
        remittance.resolution = message.resolution().as_str_name(),
        "a parked remittance line was resolved"
    );
    app.commit(tx, request, &events, ResolveParkedLineResponse { claim })
        .await
}

/// Books the line. The caller holds the lock on the claim number.
async fn book(
    conn: &mut PgConnection,
    facility: &Facility,
    parked: &ParkedLine,
) -> Result<(Uuid, Event), Error> {
    let not_submitted = || Error::ClaimNotSubmitted(format!("{}/{}", parked.provider_id, parked.claim_id));
    let id = store::find_id(conn, facility.as_str(), &parked.provider_id, &parked.claim_id)
        .await?
        .ok_or_else(not_submitted)?;
    let mut record = store::lock(conn, id)
        .await?
        .filter(|record| record.submitted_at.is_some())
        .ok_or_else(not_submitted)?;
    let activities = &record.details.activities;
    if activities
        .iter()
        .all(|activity| activity.id != parked.activity_id)
    {
        return Err(Error::UnknownActivity(parked.activity_id.clone()));
    }
    // Another call may have resolved the same line first.
    if store::parked::delete(conn, &[parked.id]).await? == 0 {
        return Err(Error::ParkedLineNotFound(parked.id));
    }
    let advice = Advice::from(parked);
    let booked = store::remittances::list_lines(conn, &[record.id]).await?;
    let new = vec![NewLine::from(parked.clone())];
    let booking = Booking::new(&record, &booked, advice, new);
    let event = booking.execute(conn, facility, &mut record, advice).await?;
    Ok((record.id, event))
}

//! Somebody decides what becomes of a remittance line that is not booked.

use chassis::{Facility, idempotency, idempotency::Key};
use events::Event;
use proto::claims::v1::{ParkedResolution, ResolveParkedLineRequest, ResolveParkedLineResponse};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    booking::Booking,
    desk::{Answer, Asked, Desk},
    error::Error,
    get_claim,
    store::{
        self,
        parked::{Number, ParkedLine},
        remittances::{Advice, NewLine},
    },
};

/// The method's name, as keys know it.
pub const METHOD: &str = "claims.v1.ClaimService/ResolveParkedLine";

/// Books the line on its claim, whoever sent it and however often it came, or discards it.
///
/// # Errors
/// [`Error::NoSuchParkedLine`], [`Error::NotFiled`], [`Error::UnknownActivity`].
pub async fn resolve(
    desk: &Desk,
    facility: &Facility,
    request: ResolveParkedLineRequest,
) -> Result<Answer<ResolveParkedLineResponse>, Error> {
    let key = Key::of(METHOD, &request.request_id, &request)?;
    let asked = Asked { facility, key: &key };
    let mut tx = desk.database.begin(facility).await?;
    match idempotency::claim(&mut tx, facility, &key, Uuid::nil()).await? {
        idempotency::Claim::New => {}
        idempotency::Claim::Answered(answer) => return Ok(Answer::Repeated(answer)),
        idempotency::Claim::Running { .. } => return Err(Error::InProgress),
    }
    let missing = || Error::NoSuchParkedLine(request.id);
    let line = store::parked::find(&mut tx, facility.as_str(), request.id)
        .await?
        .ok_or_else(missing)?;
    let number = Number {
        provider_id: &line.provider_id,
        claim_id: &line.claim_id,
    };
    store::parked::lock_numbers(&mut tx, &[(facility, number)]).await?;
    let (claim, events) = if request.resolution() == ParkedResolution::Book {
        let (claim, event) = book(&mut tx, facility, &line).await?;
        (Some(get_claim::show(&mut tx, claim).await?), vec![event])
    } else {
        if store::parked::discard(&mut tx, line.id, &request.reason).await? == 0 {
            return Err(missing());
        }
        (None, Vec::new())
    };
    tracing::info!(
        remittance.parked_line = line.id,
        remittance.resolution = request.resolution().as_str_name(),
        "a parked remittance line was resolved"
    );
    desk.close(tx, asked, &events, ResolveParkedLineResponse { claim })
        .await
}

/// Books the line; the number is locked.
async fn book(
    conn: &mut PgConnection,
    facility: &Facility,
    parked: &ParkedLine,
) -> Result<(Uuid, Event), Error> {
    let not_filed = || Error::NotFiled(format!("{}/{}", parked.provider_id, parked.claim_id));
    let id = store::id_of_number(conn, facility.as_str(), &parked.provider_id, &parked.claim_id)
        .await?
        .ok_or_else(not_filed)?;
    let mut record = store::lock(conn, id)
        .await?
        .filter(|record| record.submitted_at.is_some())
        .ok_or_else(not_filed)?;
    let activities = &record.details.activities;
    if activities
        .iter()
        .all(|activity| activity.id != parked.activity_id)
    {
        return Err(Error::UnknownActivity(parked.activity_id.clone()));
    }
    // Another resolution of the same line may have been quicker.
    if store::parked::take(conn, &[parked.id]).await? == 0 {
        return Err(Error::NoSuchParkedLine(parked.id));
    }
    let advice = Advice::from(parked);
    let booked = store::remittances::lines(conn, &[record.id]).await?;
    let new = vec![NewLine::from(parked.clone())];
    let booking = Booking::plan(&record, &booked, advice, new);
    let event = booking.write(conn, facility, &mut record, advice).await?;
    Ok((record.id, event))
}

//! Reads of payments.

use chassis::{Facility, page};
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    desk::{Desk, view},
    error::Error,
    payment::{Payment, Purpose, State},
    store::{self, Filter},
    wire::payment,
};

/// How a payment is named.
#[derive(Clone, Copy, Debug)]
pub enum Named {
    Id(Uuid),
    Of(Uuid, Purpose),
}

/// Reads one payment.
pub async fn get_payment(desk: &Desk, facility: &Facility, named: Named) -> Result<wire::Payment, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let (id, of) = match named {
        Named::Id(id) => (Some(id), None),
        Named::Of(order_id, purpose) => (None, Some((order_id, purpose))),
    };
    let found = store::read(&mut tx, id, of).await?;
    let found = found.ok_or_else(|| Error::NotFound(named.to_string()))?;
    let mut viewed = view(&mut tx, &found).await?;
    viewed.capture_pending = !capturing(&mut tx, &[found]).await?.is_empty();
    tx.commit().await?;
    Ok(viewed)
}

/// One page of payments, newest first, and the id that the next one begins after.
pub async fn list_payments(
    desk: &Desk,
    facility: &Facility,
    filter: Filter,
    after: Option<Uuid>,
    size: u32,
) -> Result<(Vec<wire::Payment>, Option<Uuid>), Error> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut tx = desk.database.begin(facility).await?;
    // One more than asked for tells whether there is another page.
    let at_most = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
    let mut found = store::list(&mut tx, filter, after, at_most).await?;
    let more = found.len() > size;
    found.truncate(size);
    let captured: Vec<Uuid> = found
        .iter()
        .filter(|found| found.captured > 0)
        .map(|found| found.id)
        .collect();
    let refunds = store::refunds(&mut tx, &captured).await?;
    let capturing = capturing(&mut tx, &found).await?;
    tx.commit().await?;
    let mut page: Vec<_> = found
        .iter()
        .map(|found| wire::Payment {
            capture_pending: capturing.contains(&found.id),
            ..payment(found, &refunds)
        })
        .collect();
    let more = page::cut(&mut page) || more;
    let last = found.get(page.len().saturating_sub(1));
    let next = last.map(|last: &Payment| last.id).filter(|_| more);
    Ok((page, next))
}

/// Those of these payments whose capture is under way.
async fn capturing(conn: &mut PgConnection, payments: &[Payment]) -> Result<Vec<Uuid>, Error> {
    let authorized = payments
        .iter()
        .filter(|payment| payment.state == State::Authorized);
    let authorized: Vec<Uuid> = authorized.map(|payment| payment.id).collect();
    match authorized.is_empty() {
        true => Ok(Vec::new()),
        false => Ok(store::capturing(conn, &authorized).await?),
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Of(order_id, purpose) => write!(f, "{} of order {order_id}", purpose.name()),
        }
    }
}

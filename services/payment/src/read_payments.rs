//! Reads payments.

use chassis::{Facility, page};
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    grpc::encode,
    payment::{Payment, Purpose, State},
    response::encode_payment,
    store::{self, Filter},
};

/// Identifies a payment.
#[derive(Clone, Copy, Debug)]
pub enum PaymentRef {
    Id(Uuid),
    /// By its order and purpose.
    OrderPurpose(Uuid, Purpose),
}

/// Reads one payment.
pub async fn get_payment(
    app: &App,
    facility: &Facility,
    payment: PaymentRef,
) -> Result<wire::Payment, Error> {
    let mut tx = app.database.begin(facility).await?;
    let (id, order_purpose) = match payment {
        PaymentRef::Id(id) => (Some(id), None),
        PaymentRef::OrderPurpose(order_id, purpose) => (None, Some((order_id, purpose))),
    };
    let found = store::find(&mut tx, id, order_purpose).await?;
    let found = found.ok_or_else(|| Error::NotFound(payment.to_string()))?;
    let mut encoded = encode_payment(&mut tx, &found).await?;
    encoded.capture_pending = !list_capturing(&mut tx, &[found]).await?.is_empty();
    tx.commit().await?;
    Ok(encoded)
}

/// One page of payments, newest first, and the id after which the next page begins.
pub async fn list_payments(
    app: &App,
    facility: &Facility,
    filter: Filter,
    after: Option<Uuid>,
    size: u32,
) -> Result<(Vec<wire::Payment>, Option<Uuid>), Error> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut tx = app.database.begin(facility).await?;
    // One more than requested shows whether there is another page.
    let at_most = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
    let mut found = store::list(&mut tx, filter, after, at_most).await?;
    let more = found.len() > size;
    found.truncate(size);
    let captured: Vec<Uuid> = found
        .iter()
        .filter(|found| found.captured > 0)
        .map(|found| found.id)
        .collect();
    let refunds = store::list_refunds(&mut tx, &captured).await?;
    let capturing = list_capturing(&mut tx, &found).await?;
    tx.commit().await?;
    let mut page: Vec<_> = found
        .iter()
        .map(|found| wire::Payment {
            capture_pending: capturing.contains(&found.id),
            ..encode::payment(found, &refunds)
        })
        .collect();
    let more = page::truncate(&mut page) || more;
    let last = found.get(page.len().saturating_sub(1));
    let next = last.map(|last: &Payment| last.id).filter(|_| more);
    Ok((page, next))
}

/// The ids of those of the payments whose capture is in progress.
async fn list_capturing(conn: &mut PgConnection, payments: &[Payment]) -> Result<Vec<Uuid>, Error> {
    let authorized = payments
        .iter()
        .filter(|payment| payment.state == State::Authorized);
    let authorized: Vec<Uuid> = authorized.map(|payment| payment.id).collect();
    if authorized.is_empty() {
        Ok(Vec::new())
    } else {
        Ok(store::list_capturing(conn, &authorized).await?)
    }
}

impl std::fmt::Display for PaymentRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::OrderPurpose(order_id, purpose) => write!(f, "{} of order {order_id}", purpose.name()),
        }
    }
}

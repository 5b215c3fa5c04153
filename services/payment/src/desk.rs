//! What every use case works with.

use std::{sync::Arc, time::Duration};

use chassis::{Facility, Tasks, idempotency::Key, postgres::Database};
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    config, error::Error, finishing::Finisher, payment::Payment, processor::Processor, starting::Starter,
    store, wire,
};

/// The service's means. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub tasks: Tasks,
    pub database: Database,
    pub processor: Arc<dyn Processor>,
    pub outbox: events::Outbox,
    /// Where requests begin.
    pub starter: Starter,
    /// Where exchanges with the processor end.
    pub finisher: Finisher,
    pub processing: config::Processor,
    pub authorization: config::Authorization,
}

/// A mutating request: whose it is, what makes its repetition the same, and until when its caller waits.
#[derive(Clone, Debug)]
pub struct Request {
    pub facility: Facility,
    pub key: Key,
    pub deadline: Option<Instant>,
}

/// The answer to a mutating request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub payment: proto::payment::v1::Payment,
    /// Whether it was given before.
    pub replayed: bool,
}

impl Request {
    /// The time left, at most `bound`.
    pub(crate) fn time_left(&self, bound: Duration) -> Duration {
        let left = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(bound, |left| left.min(bound))
    }
}

/// A payment as it is answered.
pub(crate) async fn view(
    conn: &mut PgConnection,
    payment: &Payment,
) -> Result<proto::payment::v1::Payment, Error> {
    let shown = views(conn, &[(payment, payment.captured > 0)]).await?.pop();
    shown.ok_or(Error::Orphan(payment.id))
}

/// Payments as they are answered, each with whether it may have refunds.
pub(crate) async fn views(
    conn: &mut PgConnection,
    payments: &[(&Payment, bool)],
) -> Result<Vec<proto::payment::v1::Payment>, Error> {
    let refunded: Vec<Uuid> = payments
        .iter()
        .filter(|(_, has_refunds)| *has_refunds)
        .map(|(payment, _)| payment.id)
        .collect();
    let refunds = match refunded.is_empty() {
        true => Vec::new(),
        false => store::refunds(conn, &refunded).await?,
    };
    let views = payments
        .iter()
        .map(|(payment, _)| wire::payment(payment, &refunds));
    Ok(views.collect())
}

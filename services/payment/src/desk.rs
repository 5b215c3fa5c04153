//! What every use case works with.

use std::{sync::Arc, time::Duration};

use chassis::{Facility, Tasks, idempotency::Key, postgres::Database};
use sqlx::PgConnection;
use tokio::time::Instant;

use crate::{
    config, error::Error, operation::Operation, payment::Payment, processor::Processor, store, wire,
};

/// The service's means. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub tasks: Tasks,
    pub database: Database,
    pub processor: Arc<dyn Processor>,
    pub outbox: events::Outbox,
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

impl Desk {
    /// Writes down what a request wants of the processor, leased to the caller. The payment must be locked.
    pub(crate) async fn open(
        &self,
        conn: &mut PgConnection,
        request: &Request,
        operation: &Operation,
    ) -> Result<(), sqlx::Error> {
        let (facility, lease) = (request.facility.as_str(), self.processing.lease());
        store::operations::insert(conn, facility, operation, lease, Some(&request.key)).await
    }

    /// Writes down what follows by itself from an operation, leased to the caller. The payment must be locked.
    pub(crate) async fn follow_up(
        &self,
        conn: &mut PgConnection,
        facility: &Facility,
        operation: &Operation,
    ) -> Result<(), sqlx::Error> {
        let lease = self.processing.lease();
        store::operations::insert(conn, facility.as_str(), operation, lease, None).await
    }
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
    // Nothing is refunded of what was never captured.
    let refunds = match payment.captured {
        0 => Vec::new(),
        _ => store::refunds(conn, &[payment.id]).await?,
    };
    Ok(wire::payment(payment, &refunds))
}

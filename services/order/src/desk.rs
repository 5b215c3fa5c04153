//! What every use case works with, and what it is asked.

use std::{sync::Arc, time::Duration};

use chassis::{Facility, PageTokens, batch::Batcher, idempotency::Key, postgres::Database};
use mesh::Context;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::{
    changes::Changes,
    config,
    place_order::AcceptOrders,
    saga::{Engine, Participants},
    settlement::DenialPolicy,
};

/// The service's means. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub database: Database,
    /// Where new orders are written.
    pub accepting: Batcher<AcceptOrders>,
    pub engine: Engine,
    pub participants: Participants,
    pub changes: Changes,
    pub outbox: events::Outbox,
    pub pages: PageTokens,
    pub denials: Arc<DenialPolicy>,
    pub orders: config::Orders,
    /// How long a saga may take before it counts as stuck.
    pub patience: time::Duration,
}

impl Desk {
    /// When a saga that begins now counts as stuck.
    pub fn deadline(&self) -> OffsetDateTime {
        self.database.clock().now() + self.patience
    }
}

/// A mutating request: whose it is, on whose behalf and until when it is carried out, and what makes its repetition
/// the same.
#[derive(Clone, Debug)]
pub struct Request {
    pub facility: Facility,
    /// For the calls that it makes. Ends a little before the caller's patience does, so that an unfinished request is
    /// still answered.
    pub context: Context,
    pub key: Key,
    /// When it must be answered, finished or not.
    pub answer_by: Instant,
}

/// What is kept back of a caller's time for writing down what is unfinished and for the answer's way back, at most a
/// fifth of it.
const MARGIN: Duration = Duration::from_millis(250);
/// The patience of a caller without a deadline; the server gives every call one.
const PATIENCE: Duration = Duration::from_secs(10);

impl Request {
    /// A request that has come just now in `context`.
    pub fn new(facility: Facility, context: Context, key: Key) -> Request {
        let left = context.remaining().unwrap_or(PATIENCE);
        let answer_by = Instant::now() + left - MARGIN.min(left / 5);
        Request {
            facility,
            context: context.with_deadline(answer_by),
            key,
            answer_by,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_is_answered_before_its_callers_patience_ends() {
        for (patience_ms, answered_after_ms) in [(15_000, 14_750), (1_000, 800), (0, 0)] {
            let context = Context::new().with_timeout(Duration::from_millis(patience_ms));
            let key = Key::of(
                "order.v1.OrderService/GetOrder",
                &uuid::Uuid::nil().to_string(),
                &(),
            )
            .unwrap();
            let request = Request::new(Facility::new("F1").unwrap(), context, key);
            let answered_after = request.answer_by - Instant::now();
            assert_eq!(answered_after, Duration::from_millis(answered_after_ms));
            assert_eq!(request.context.remaining(), Some(answered_after));
        }
    }
}

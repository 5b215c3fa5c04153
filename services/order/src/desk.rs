//! What every use case works with, and what it is asked.

use std::{sync::Arc, time::Duration};

use chassis::{Facility, PageTokens, idempotency::Key, postgres::Database};
use mesh::Context;
use tokio::time::Instant;

use crate::{
    changes::Changes,
    config,
    saga::{Engine, Participants},
    settlement::DenialPolicy,
};

/// The service's means. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub database: Database,
    pub engine: Engine,
    pub participants: Participants,
    pub changes: Changes,
    pub outbox: events::Outbox,
    pub pages: PageTokens,
    pub denials: Arc<DenialPolicy>,
    pub orders: config::Orders,
    /// When a saga that begins now counts as stuck.
    pub patience: time::Duration,
}

/// A mutating request: whose it is, on whose behalf and until when it is carried out, and what makes its repetition
/// the same.
#[derive(Clone, Debug)]
pub struct Request {
    pub facility: Facility,
    pub context: Context,
    pub key: Key,
}

/// What is kept back of a caller's time for writing down what is unfinished and for the answer's way back, at most a
/// fifth of it.
const MARGIN: Duration = Duration::from_millis(250);

impl Request {
    /// The context for the calls that this request makes: it ends a little before the caller's patience does, so that
    /// an unfinished request is still answered.
    pub fn calls(&self) -> Context {
        self.context.clone().with_deadline(self.answer_by())
    }

    /// When it must be answered, finished or not.
    pub fn answer_by(&self) -> Instant {
        let now = Instant::now();
        match self.context.deadline() {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(now);
                now + left - MARGIN.min(left / 5)
            }
            // The server gives every call a deadline; this is for a caller without a server.
            None => now + Duration::from_secs(10),
        }
    }
}

//! A mutating request, independent of its method.

use std::time::Duration;

use chassis::{Facility, idempotency::Key};
use tokio::time::Instant;

/// The facility, the idempotency key and the caller's deadline of a mutating request.
#[derive(Clone, Debug)]
pub struct Request {
    pub facility: Facility,
    pub key: Key,
    pub deadline: Option<Instant>,
}

impl Request {
    /// The time until the deadline, at most `bound`.
    pub(crate) fn time_left(&self, bound: Duration) -> Duration {
        let left = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(bound, |left| left.min(bound))
    }
}

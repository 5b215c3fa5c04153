//! A mutating request, independent of its method.

use std::time::Duration;

use chassis::{Facility, idempotency::Key};
use mesh::Context;
use tokio::time::Instant;

/// The facility, the idempotency key, the context and the deadline of a mutating request.
#[derive(Clone, Debug)]
pub struct Request {
    pub facility: Facility,
    /// The context of the calls that the request makes. Its deadline is a little before the caller's, so that an
    /// unfinished request can still be answered.
    pub context: Context,
    pub key: Key,
    /// When the request must be answered, even if it is unfinished.
    pub answer_by: Instant,
}

/// Time reserved before the caller's deadline for reading an unfinished order and sending the response; at most a
/// fifth of the time left.
const RESPONSE_RESERVE: Duration = Duration::from_millis(250);
/// Default timeout when the caller sets no deadline. The server sets one on every call, so this is a fallback.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

impl Request {
    /// Creates a request that was received just now in `context`.
    pub fn new(facility: Facility, context: Context, key: Key) -> Request {
        let left = context.remaining().unwrap_or(DEFAULT_TIMEOUT);
        let answer_by = Instant::now() + left - RESPONSE_RESERVE.min(left / 5);
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
    async fn a_request_is_answered_before_its_callers_deadline() {
        for (timeout_ms, answered_after_ms) in [(15_000, 14_750), (1_000, 800), (0, 0)] {
            let context = Context::new().with_timeout(Duration::from_millis(timeout_ms));
            let key = Key::new(
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

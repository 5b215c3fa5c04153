//! Who a call is made for and until when: what a server hands on to the calls it makes.
//!
//! The explicit way is [`Context::request`]. Inside [`Context::scope`] the channel finds the context by
//! itself; task-locals do not cross `tokio::spawn`, so spawned work must scope again.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use tokio::time::Instant;

use crate::grpc_timeout::{self, InvalidTimeout};

/// The header that tells how many attempts were made before this one (gRFC A6).
pub const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

tokio::task_local! {
    static CURRENT: Context;
}

/// What a call inherits from the call that caused it. Cheap to clone; its `Debug` hides the token.
#[derive(Clone, Default)]
pub struct Context {
    deadline: Option<Instant>,
    bearer: Option<Arc<str>>,
    serving_retry: bool,
}

impl Context {
    /// A context without a deadline and without a caller.
    pub fn new() -> Context {
        Context::default()
    }

    /// The context of a request that arrives now: its `grpc-timeout` counted from now, its bearer token (not
    /// verified), and whether it is itself a retry.
    ///
    /// # Errors
    /// When `grpc-timeout` is there and unreadable.
    pub fn from_headers(headers: &HeaderMap) -> Result<Context, InvalidTimeout> {
        let timeout = grpc_timeout::decode(headers)?;
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(token);
        let previous = headers
            .get(PREVIOUS_ATTEMPTS)
            .and_then(|value| value.to_str().ok());
        Ok(Context {
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            bearer: bearer.map(Arc::from),
            serving_retry: previous
                .and_then(|count| count.parse::<u32>().ok())
                .is_some_and(|count| count > 0),
        })
    }

    /// Sets the deadline `timeout` from now; an earlier one that is already set stays.
    pub fn with_timeout(self, timeout: Duration) -> Context {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.with_deadline(deadline),
            None => self,
        }
    }

    /// Sets the deadline; an earlier one that is already set stays, because work never gets more time than
    /// the one who waits for it has.
    pub fn with_deadline(mut self, deadline: Instant) -> Context {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self
    }

    /// Sets the token that calls carry, without the word `Bearer`.
    pub fn with_bearer(mut self, token: impl Into<Arc<str>>) -> Context {
        self.bearer = Some(token.into());
        self
    }

    /// Takes the token away: calls carry none.
    pub(crate) fn without_bearer(mut self) -> Context {
        self.bearer = None;
        self
    }

    /// Says that the work is done for a retry: calls made from here are not retried again, so that retries do
    /// not multiply from layer to layer.
    pub fn with_serving_retry(mut self, serving_retry: bool) -> Context {
        self.serving_retry = serving_retry;
        self
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time left, zero when it is over; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The token that calls carry, without the word `Bearer`.
    pub fn bearer(&self) -> Option<&Arc<str>> {
        self.bearer.as_ref()
    }

    /// Whether the work is done for a retry.
    pub fn serving_retry(&self) -> bool {
        self.serving_retry
    }

    /// A request that is sent in this context.
    pub fn request<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(self.clone());
        request
    }

    /// Runs `future` in this context: calls that name none of their own use it.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// The context of the running task, when it was scoped.
    pub fn current() -> Option<Context> {
        CURRENT.try_with(Context::clone).ok()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("remaining", &self.remaining())
            .field("bearer", &self.bearer.as_ref().map(|_| "[redacted]"))
            .field("serving_retry", &self.serving_retry)
            .finish()
    }
}

/// The scheme is compared without regard to case (RFC 9110, section 11.1).
fn token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_only_ever_brought_forward() {
        let context = Context::new()
            .with_timeout(Duration::from_secs(1))
            .with_timeout(Duration::from_secs(9));
        assert_eq!(context.remaining(), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(context.remaining(), Some(Duration::ZERO));
    }

    #[test]
    fn the_token_is_never_printed() {
        let context = Context::new().with_bearer("very-secret");
        assert!(!format!("{context:?}").contains("very-secret"));
    }

    #[tokio::test]
    async fn a_scope_is_seen_inside_and_not_outside() {
        assert!(Context::current().is_none());
        let bearer = Context::new()
            .with_bearer("t")
            .scope(async { Context::current().unwrap().bearer().cloned() });
        assert_eq!(bearer.await.as_deref(), Some("t"));
        assert!(Context::current().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_arriving_request_hands_on_its_time_token_and_attempt() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", "300m".parse().unwrap());
        headers.insert(AUTHORIZATION, "bearer abc".parse().unwrap());
        headers.insert(PREVIOUS_ATTEMPTS, "1".parse().unwrap());
        let context = Context::from_headers(&headers).unwrap();
        assert_eq!(context.remaining(), Some(Duration::from_millis(300)));
        assert_eq!(context.bearer().map(|token| &**token), Some("abc"));
        assert!(context.serving_retry());
    }
}

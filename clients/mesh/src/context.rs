//! The context that a server propagates to the calls that it makes: token, deadline, and whether it serves a
//! retry.
//!
//! [`Context::request`] passes it explicitly. Inside [`Context::scope`] the channel uses it implicitly;
//! task-locals do not cross `tokio::spawn`, so spawned work must enter the scope again.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use tokio::time::Instant;

use crate::grpc_timeout::{self, InvalidTimeout};

/// The header with the number of previous attempts of a call (gRFC A6).
pub const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

tokio::task_local! {
    static CURRENT: Context;
}

/// What a call inherits from the request that caused it. Cheap to clone; its `Debug` hides the token.
#[derive(Clone, Default)]
pub struct Context {
    deadline: Option<Instant>,
    bearer: Option<Arc<str>>,
    serving_retry: bool,
}

impl Context {
    /// A context without a deadline and without a token.
    pub fn new() -> Context {
        Context::default()
    }

    /// Reads the context from the headers of an incoming request: its `grpc-timeout` counted from now, its bearer
    /// token (not verified), and whether it is a retry.
    ///
    /// # Errors
    /// If `grpc-timeout` is invalid.
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

    /// Sets the deadline to `timeout` from now; an earlier deadline stays.
    pub fn with_timeout(self, timeout: Duration) -> Context {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.with_deadline(deadline),
            None => self,
        }
    }

    /// Sets the deadline; an earlier deadline stays, because a call must not have more time than its caller.
    pub fn with_deadline(mut self, deadline: Instant) -> Context {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self
    }

    /// Sets the token that calls carry, without the word `Bearer`.
    pub fn with_bearer(mut self, token: impl Into<Arc<str>>) -> Context {
        self.bearer = Some(token.into());
        self
    }

    /// Removes the token.
    pub(crate) fn without_bearer(mut self) -> Context {
        self.bearer = None;
        self
    }

    /// Sets whether the work serves a retry: its calls are not retried, so that retries do not multiply from layer
    /// to layer.
    pub fn with_serving_retry(mut self, serving_retry: bool) -> Context {
        self.serving_retry = serving_retry;
        self
    }

    /// The caller's deadline.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The remaining time, zero after the deadline; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The token that calls carry, without the word `Bearer`.
    pub fn bearer(&self) -> Option<&Arc<str>> {
        self.bearer.as_ref()
    }

    /// Whether the work serves a retry.
    pub fn serving_retry(&self) -> bool {
        self.serving_retry
    }

    /// A request that is sent in this context.
    pub fn request<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(self.clone());
        request
    }

    /// Runs `future` in this context, which its calls use unless they have a context of their own.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// The context of the current task, if it runs in a [scope](Context::scope).
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

/// The token of a `Bearer` header. The scheme is case-insensitive (RFC 9110, section 11.1).
fn token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_never_extended() {
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
    async fn a_context_is_current_only_inside_its_scope() {
        assert!(Context::current().is_none());
        let bearer = Context::new()
            .with_bearer("t")
            .scope(async { Context::current().unwrap().bearer().cloned() });
        assert_eq!(bearer.await.as_deref(), Some("t"));
        assert!(Context::current().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_context_from_headers_has_their_timeout_token_and_retry() {
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

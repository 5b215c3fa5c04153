//! Sets the headers of every attempt: the remaining time, the number of previous attempts, the token, the trace.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Response, header};
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tower::Service;
use tracing::Instrument;

use crate::{
    call::{Attempt, AttemptOutcome},
    context::PREVIOUS_ATTEMPTS,
    failure::{Failure, Reached},
    grpc_timeout, origin,
    telemetry::{Measured, Metrics, Running, span},
};

/// Sets each attempt's headers and wraps it in a span.
#[derive(Clone, Debug)]
pub(crate) struct Prepare<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Prepare<S> {
    pub(crate) fn new(inner: S, metrics: Arc<Metrics>) -> Prepare<S> {
        Prepare { inner, metrics }
    }
}

impl<S> Service<Attempt> for Prepare<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = Failure> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Failure;
    type Future = BoxFuture<'static, AttemptOutcome>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut attempt: Attempt) -> Self::Future {
        let span = span::attempt(&attempt);
        if let Err(status) = set_headers(&mut attempt) {
            return Box::pin(async move {
                Err(Failure {
                    status: origin::not_sent(status),
                    reached: Reached::NoEndpoint,
                    request: None,
                })
            });
        }
        span::inject(&span, attempt.request.headers_mut());
        self.metrics.attempt_started(&attempt.method.label);
        let running = Running::new(
            Measured::Attempt,
            &self.metrics,
            &attempt.method,
            attempt.deadline,
            &span,
        );
        attempt.running = Some(running);
        Box::pin(self.inner.call(attempt).instrument(span))
    }
}

fn set_headers(attempt: &mut Attempt) -> Result<(), Status> {
    let headers = attempt.request.headers_mut();
    if let Some(deadline) = attempt.deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Status::deadline_exceeded("no time was left to send the call"));
        }
        headers.insert(grpc_timeout::HEADER, grpc_timeout::encode(left));
    }
    // Calls made while serving a retry are marked as retries as well, or layers further down would retry again.
    let previous = attempt.previous.max(attempt.context.serving_retry().into());
    if previous > 0 {
        headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(previous));
    }
    // A token that the application has set itself is kept.
    if let Some(token) = attempt.context.bearer()
        && !headers.contains_key(header::AUTHORIZATION)
    {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
            Status::unauthenticated("the caller's token contains characters that are invalid in a header")
        })?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! The outermost layer: ends calls at their deadline, and does not send a call after its deadline.
//!
//! This timer covers everything: waiting for a connection, every attempt and the delays between them, and the
//! messages of a stream after its headers. A timer of a layer below would report CANCELLED; this one always
//! reports DEADLINE_EXCEEDED.

use std::{
    pin::Pin,
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status, body::Body};
use tower::Service;

use crate::{
    call::{Call, Outcome},
    code,
    context::Context,
    grpc_timeout, origin,
};

/// Enforces [`Call::deadline`].
#[derive(Clone, Debug)]
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    pub(crate) fn new(inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// The earliest of: the caller's deadline less the margin, the request's own `grpc-timeout`, the policy's.
pub(crate) fn effective(
    context: &Context,
    own: Option<Duration>,
    policy: Option<Duration>,
    margin: Duration,
) -> Option<Instant> {
    let now = Instant::now();
    let inherited = context.deadline().map(|deadline| {
        let remaining = deadline.saturating_duration_since(now);
        now + remaining.saturating_sub(margin.min(remaining / 10))
    });
    [
        inherited,
        own.and_then(|own| now.checked_add(own)),
        policy.and_then(|policy| now.checked_add(policy)),
    ]
    .into_iter()
    .flatten()
    .min()
}

/// The request's own timeout, as set by `tonic::Request::set_timeout`. INVALID_ARGUMENT if the header is invalid.
pub(crate) fn own_timeout(headers: &http::HeaderMap) -> Result<Option<Duration>, Status> {
    grpc_timeout::decode(headers).map_err(|error| Status::invalid_argument(error.to_string()))
}

impl<S> Service<Call> for Deadline<S>
where
    S: Service<Call, Response = Response<Body>, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Outcome>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let Some(deadline) = call.deadline else {
            return Box::pin(self.inner.call(call));
        };
        if deadline <= Instant::now() {
            let late = Status::deadline_exceeded("no time was left to send the call");
            return Box::pin(async { Err(origin::not_sent(late)) });
        }
        let answer = self.inner.call(call);
        Box::pin(async move {
            let mut timer = Box::pin(sleep_until(deadline));
            tokio::select! {
                biased;
                outcome = answer => in_time(outcome, timer),
                () = timer.as_mut() => Err(exceeded()),
            }
        })
    }
}

/// Maps the CANCELLED of the callee's timer, which may fire before ours, to DEADLINE_EXCEEDED; guards the response
/// body.
fn in_time(outcome: Outcome, timer: Pin<Box<Sleep>>) -> Outcome {
    let response = match outcome {
        Err(status) if expired(status.code(), status.message()) => return Err(exceeded()),
        Err(status) => return Err(status),
        Ok(response) => response,
    };
    if code::early(&response) == Some(Code::Cancelled)
        && let Some(status) = Status::from_header_map(response.headers())
        && expired(status.code(), status.message())
    {
        return Err(exceeded());
    }
    Ok(response.map(|body| {
        Body::new(Guarded {
            body,
            timer: Some(timer),
        })
    }))
}

fn expired(code: Code, message: &str) -> bool {
    code == Code::Cancelled && message == "Timeout expired"
}

fn exceeded() -> Status {
    Status::deadline_exceeded("the call's deadline passed")
}

/// A response's body that ends with DEADLINE_EXCEEDED at the deadline.
struct Guarded {
    body: Body,
    timer: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Guarded {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = &mut *self;
        let Some(timer) = &mut this.timer else {
            return Poll::Ready(None);
        };
        // The timer is polled first, so that a stream that always has a message ready ends as well.
        if timer.as_mut().poll(cx).is_pending() {
            return Pin::new(&mut this.body).poll_frame(cx);
        }
        this.timer = None;
        // Dropping the body resets the stream, which cancels the callee's work.
        this.body = Body::empty();
        Poll::Ready(Some(Err(exceeded())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;

//! Enforces the caller's deadline with DEADLINE_EXCEEDED.

use std::{
    future::Future,
    pin::Pin,
    task::{Context as Task, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use mesh::Context;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next, refuse},
    stream_timeout::{self, StreamLimits},
};
use crate::status;

/// Time limit of an anonymous unary call: a health check.
const ANONYMOUS_CALL: Duration = Duration::from_secs(5);
/// Time limit of an anonymous stream: a health watch, reflection.
const ANONYMOUS_STREAM: Duration = Duration::from_secs(3_600);

pub(super) struct Layer {
    shutdown: CancellationToken,
    stream_grace: Duration,
}

impl Layer {
    pub(super) fn new(shutdown: CancellationToken, stream_grace: Duration) -> Layer {
        Layer {
            shutdown,
            stream_grace,
        }
    }
}

impl CallLayer for Layer {
    fn handle(&self, mut call: Call, next: Next) -> BoxFuture<'_, Response> {
        let Ok(context) = Context::from_headers(call.request.headers()) else {
            let refusal = status::invalid_field("grpc-timeout", "must be one to eight digits and a unit");
            return Box::pin(async { refuse(refusal) });
        };
        let shape = call.shape();
        let longest = match call.policy() {
            Some(policy) => policy.timeout,
            None if shape.server_streams => ANONYMOUS_STREAM,
            None => ANONYMOUS_CALL,
        };
        // The earlier of this deadline and the caller's own; a method without a timeout has only the caller's.
        let context = match call.arrival.checked_add(longest) {
            Some(latest) => context.with_deadline(latest),
            None => context,
        };
        let deadline = context.deadline();
        call.request.extensions_mut().insert(context.clone());
        call.context = context;
        let is_described = call.is_described();
        // What may be a unary call is finished.
        let ends_with_server = shape.server_streams && (is_described || call.method.is_none());
        Box::pin(async move {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return refuse(status::deadline_exceeded());
            }
            stream_timeout::limit_stream(StreamLimits {
                deadline,
                ends_with_server,
            });
            let response = match deadline {
                Some(deadline) => timeout_at(deadline, next.run(call)).await,
                None => Ok(next.run(call).await),
            };
            match response {
                Ok(response) if shape.server_streams => self.limit_body(response, deadline, is_described),
                Ok(response) => response,
                Err(_) => refuse(status::deadline_exceeded()),
            }
        })
    }
}

impl Layer {
    /// Applies the deadline to the messages of a stream. A health watch continues while the process announces its
    /// stop; the health service ends it.
    fn limit_body(&self, response: Response, deadline: Option<Instant>, is_described: bool) -> Response {
        response.map(|body| {
            Body::new(DeadlineBody {
                body,
                deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
                draining: is_described.then(|| Box::pin(self.shutdown.clone().cancelled_owned())),
                grace: None,
                stream_grace: self.stream_grace,
                ended: false,
            })
        })
    }
}

/// A response stream that ends at its deadline, or after the grace period once the process stops.
struct DeadlineBody {
    body: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Started when the process stops.
    grace: Option<Pin<Box<Sleep>>>,
    stream_grace: Duration,
    ended: bool,
}

impl DeadlineBody {
    fn poll_expired(&mut self, task: &mut Task<'_>) -> Poll<Status> {
        if has_elapsed(&mut self.deadline, task) {
            return Poll::Ready(status::deadline_exceeded());
        }
        if let Some(draining) = &mut self.draining
            && draining.as_mut().poll(task).is_ready()
        {
            self.draining = None;
            self.grace = Some(Box::pin(tokio::time::sleep(self.stream_grace)));
        }
        if has_elapsed(&mut self.grace, task) {
            return Poll::Ready(status::draining());
        }
        Poll::Pending
    }
}

fn has_elapsed(timer: &mut Option<Pin<Box<Sleep>>>, task: &mut Task<'_>) -> bool {
    timer
        .as_mut()
        .is_some_and(|timer| timer.as_mut().poll(task).is_ready())
}

impl HttpBody for DeadlineBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Checked first, so that a stream that always has a message also ends.
        let Poll::Ready(expired) = self.poll_expired(task) else {
            return Pin::new(&mut self.body).poll_frame(task);
        };
        self.ended = true;
        // Drops the handler's remaining messages.
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        match expired.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}

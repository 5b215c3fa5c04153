//! No call outlives its caller's deadline, and what comes out then is DEADLINE_EXCEEDED.

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
};
use crate::status;

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
        let Ok(context) = Context::arriving(call.request.headers()) else {
            let refusal = status::invalid_field("grpc-timeout", "must be one to eight digits and a unit");
            return Box::pin(async { refuse(refusal) });
        };
        let (declared, streams) = match call.policy() {
            Some(policy) => (
                Some(policy.timeout),
                policy.client_streaming || policy.server_streaming,
            ),
            None => (None, true),
        };
        // A stream is as long as its caller wants; a single answer is not.
        let capped = if streams && context.deadline().is_some() {
            None
        } else {
            declared
        };
        let context = match capped {
            Some(timeout) => context.with_deadline(call.arrival + timeout),
            None => context,
        };
        let deadline = context.deadline();
        call.request.extensions_mut().insert(context.clone());
        call.context = context;
        Box::pin(async move {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return refuse(status::out_of_time());
            }
            let answered = match deadline {
                Some(deadline) => timeout_at(deadline, next.run(call)).await,
                None => Ok(next.run(call).await),
            };
            match answered {
                Ok(response) if streams => self.guard(response, deadline),
                Ok(response) => response,
                Err(_) => refuse(status::out_of_time()),
            }
        })
    }
}

impl Layer {
    /// Headers were in time; the messages that follow must be too.
    fn guard(&self, response: Response, deadline: Option<Instant>) -> Response {
        response.map(|body| {
            Body::new(Guarded {
                body,
                deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
                draining: Box::pin(self.shutdown.clone().cancelled_owned()),
                grace: None,
                stream_grace: self.stream_grace,
                ended: false,
            })
        })
    }
}

/// A stream of answers that ends at its deadline, or a while after the process was told to stop.
struct Guarded {
    body: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Runs once the process is to stop.
    grace: Option<Pin<Box<Sleep>>>,
    stream_grace: Duration,
    ended: bool,
}

impl Guarded {
    fn poll_over(&mut self, task: &mut Task<'_>) -> Poll<Status> {
        if elapsed(&mut self.deadline, task) {
            return Poll::Ready(status::out_of_time());
        }
        if self.grace.is_none() && self.draining.as_mut().poll(task).is_ready() {
            self.grace = Some(Box::pin(tokio::time::sleep(self.stream_grace)));
        }
        if elapsed(&mut self.grace, task) {
            return Poll::Ready(status::unavailable(
                "DRAINING",
                "the server is stopping: ask another one",
            ));
        }
        Poll::Pending
    }
}

fn elapsed(timer: &mut Option<Pin<Box<Sleep>>>, task: &mut Task<'_>) -> bool {
    timer
        .as_mut()
        .is_some_and(|timer| timer.as_mut().poll(task).is_ready())
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(task) {
            return Poll::Ready(frame);
        }
        let Poll::Ready(over) = self.poll_over(task) else {
            return Poll::Pending;
        };
        self.ended = true;
        // What the handler would still have sent is dropped with its body.
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        match over.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}

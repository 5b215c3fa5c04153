//! The span and the duration of a whole call, as its caller sees it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use futures_util::future::BoxFuture;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::Service;
use tracing::{Instrument, Span};

use super::{Metrics, code_name, span};
use crate::call::{Call, Method, Outcome, early_code};

/// Measures each [`Call`] to the end of its response.
#[derive(Clone, Debug)]
pub(crate) struct Calls<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Calls<S> {
    pub(crate) fn new(inner: S, metrics: Arc<Metrics>) -> Calls<S> {
        Calls { inner, metrics }
    }
}

impl<S> Service<Call> for Calls<S>
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
        let span = span::call(&call.method.name);
        let mut running = Running {
            metrics: Arc::clone(&self.metrics),
            method: Arc::clone(&call.method),
            deadline: call.deadline,
            started: Instant::now(),
            span: span.clone(),
            ended: false,
        };
        let answer = span.in_scope(|| self.inner.call(call));
        let measured = async move {
            match answer.await {
                Err(status) => {
                    running.end(status.code());
                    Err(status)
                }
                Ok(response) => {
                    if let Some(code) = early_code(&response) {
                        running.end(code);
                    }
                    Ok(response.map(|body| Body::new(Measured { body, running })))
                }
            }
        };
        Box::pin(measured.instrument(span))
    }
}

/// A call that has not ended. Dropped, it was given up: for lack of time, or by its caller.
struct Running {
    metrics: Arc<Metrics>,
    method: Arc<Method>,
    deadline: Option<Instant>,
    started: Instant,
    span: Span,
    ended: bool,
}

impl Running {
    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.metrics
            .call_ended(&self.method.label, code, self.started.elapsed());
        if !self.span.is_disabled() {
            self.span.record("rpc.response.status_code", code_name(code));
            if code != Code::Ok {
                self.span.record("otel.status_code", "ERROR");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        self.end(if late {
            Code::DeadlineExceeded
        } else {
            Code::Cancelled
        });
    }
}

struct Measured {
    body: Body,
    running: Running,
}

impl HttpBody for Measured {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Err(status)) => this.running.end(status.code()),
            Some(Ok(frame)) => {
                if let Some(code) = frame
                    .trailers_ref()
                    .and_then(|trailers| trailers.get("grpc-status"))
                {
                    this.running.end(Code::from_bytes(code.as_bytes()));
                }
            }
            // An answer without a status is none.
            None => this.running.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

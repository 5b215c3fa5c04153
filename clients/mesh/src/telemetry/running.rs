//! Measures a call or one attempt, from its start to the end of its response.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use http_body::{Body as HttpBody, Frame, SizeHint};
use opentelemetry::StringValue;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tracing::Span;

use super::Metrics;
use crate::{code, method::Method};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measured {
    Call,
    Attempt,
}

/// A call or an attempt that has not ended. If it is dropped, it counts as DEADLINE_EXCEEDED if its deadline has
/// passed, otherwise as CANCELLED, by its caller or because another attempt was faster.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) method: Arc<Method>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) span: Span,
    /// The group of endpoints that a route has selected.
    pub(crate) group: Option<StringValue>,
    started: Instant,
    measured: Measured,
    ended: bool,
}

impl Running {
    pub(crate) fn new(
        measured: Measured,
        metrics: &Arc<Metrics>,
        method: &Arc<Method>,
        deadline: Option<Instant>,
        span: &Span,
    ) -> Running {
        Running {
            metrics: Arc::clone(metrics),
            method: Arc::clone(method),
            deadline,
            span: span.clone(),
            group: None,
            started: Instant::now(),
            measured,
            ended: false,
        }
    }

    /// Records the end. Later ends are ignored.
    pub(crate) fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (method, elapsed) = (&self.method.label, self.started.elapsed());
        match self.measured {
            Measured::Call => self.metrics.call_ended(method, code, elapsed),
            Measured::Attempt => {
                let group = self.group.as_ref();
                self.metrics.attempt_ended(method, group, code, elapsed);
            }
        }
        if self.span.is_disabled() {
            return;
        }
        let failed = code != Code::Ok;
        // A successful attempt has no code attribute.
        if failed || matches!(self.measured, Measured::Call) {
            self.span.record("rpc.response.status_code", code::name(code));
        }
        if failed {
            self.span.record("otel.status_code", "ERROR");
        }
    }

    /// Records the end if a frame of the response contains it; `None`: the response ended without a status.
    pub(crate) fn record_frame(&mut self, frame: Option<&Result<Frame<bytes::Bytes>, Status>>) {
        match frame {
            Some(Err(status)) => self.end(status.code()),
            Some(Ok(frame)) => {
                let trailers = frame.trailers_ref();
                if let Some(code) = trailers.and_then(|trailers| trailers.get("grpc-status")) {
                    self.end(Code::from_bytes(code.as_bytes()));
                }
            }
            None => self.end(Code::Unknown),
        }
    }

    /// Measures a response to the end of its body.
    pub(crate) fn track(self, body: Body) -> Body {
        Body::new(TrackedBody { body, running: self })
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

struct TrackedBody {
    body: Body,
    running: Running,
}

impl HttpBody for TrackedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.running.record_frame(frame.as_ref());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! What is measured of a call or of one attempt, from its start to the end of its response.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tracing::Span;

use super::Metrics;
use crate::{code, method::Method};

/// Whose end is booked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measured {
    Call,
    Attempt,
}

/// A call or an attempt that has not ended. Dropped, it was given up: DEADLINE_EXCEEDED if its time was up, else
/// CANCELLED by its caller, or by another attempt that was quicker.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) method: Arc<Method>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) span: Span,
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
            started: Instant::now(),
            measured,
            ended: false,
        }
    }

    /// Books the end; the first one counts.
    pub(crate) fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (method, elapsed) = (&self.method.label, self.started.elapsed());
        match self.measured {
            Measured::Call => self.metrics.call_ended(method, code, elapsed),
            Measured::Attempt => self.metrics.attempt_ended(method, code, elapsed),
        }
        if self.span.is_disabled() {
            return;
        }
        let failed = code != Code::Ok;
        // An attempt that went well says so by having no code.
        if failed || matches!(self.measured, Measured::Call) {
            self.span.record("rpc.response.status_code", code::name(code));
        }
        if failed {
            self.span.record("otel.status_code", "ERROR");
        }
    }

    /// Books what a frame of the response says; `None`: the response ended without a status.
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

    /// Follows a response to its end.
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

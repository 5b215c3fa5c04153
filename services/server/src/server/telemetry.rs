//! A span and a duration for every call, until the last byte of its response.

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use opentelemetry::{KeyValue, metrics::Histogram};
use tokio::time::Instant;
use tonic::{Code, body::Body};
use tracing::{Instrument, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next},
    connections::ConnectionInfo,
    log_throttle::LogThrottle,
    protocol,
};
use crate::propagation::parent;

/// The semantic conventions may still change this key, so it is defined once.
const STATUS_CODE: &str = "rpc.response.status_code";
const DURATION: &str = "rpc.server.call.duration";
/// In seconds, as the semantic conventions recommend.
const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Unknown methods share one name, because callers could invent any number of names.
const UNKNOWN_METHOD: &str = "_OTHER";

pub(super) struct Layer {
    duration: Histogram<f64>,
    log_throttle: Arc<LogThrottle>,
}

impl Layer {
    pub(super) fn new() -> Layer {
        let meter = opentelemetry::global::meter("weft");
        let duration = meter
            .f64_histogram(DURATION)
            .with_unit("s")
            .with_description("Measures the duration of an incoming Remote Procedure Call (RPC).")
            .with_boundaries(BUCKETS.to_vec())
            .build();
        Layer {
            duration,
            log_throttle: Arc::default(),
        }
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        // Health checks every few seconds are not recorded.
        let foreign = call.method.is_none();
        if foreign && call.request.uri().path().starts_with("/grpc.health.") {
            return next.run(call);
        }
        let method: Arc<str> = call
            .method
            .as_ref()
            .map_or(UNKNOWN_METHOD, |method| method.name.as_str())
            .into();
        let span = tracing::info_span!(
            "call",
            otel.name = %method,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = %method,
            rpc.response.status_code = Empty,
            weft.subject = Empty,
        );
        // Before the span is first entered; fails only when no layer records spans.
        let _ = span.set_parent(parent(call.request.headers()));
        let connection = call.request.extensions().get::<Arc<ConnectionInfo>>();
        let record = CallRecord {
            method,
            span: span.clone(),
            began: call.arrival,
            duration: self.duration.clone(),
            code: None,
            violation: None,
            log_throttle: self.log_throttle.clone(),
            address: connection.map_or(Ipv4Addr::UNSPECIFIED.into(), |connection| connection.address),
            logs_success: call.policy().is_some_and(|policy| policy.audited),
        };
        Box::pin(async move { observe(next.run(call).instrument(span).await, record) })
    }
}

fn observe(response: Response, mut record: CallRecord) -> Response {
    record.set_status(response.headers());
    response.map(|body| Body::new(ObservedBody { body, record }))
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|value| Code::from_bytes(value.as_bytes()))
}

/// Records the call when its response has ended or is dropped.
struct CallRecord {
    method: Arc<str>,
    span: Span,
    began: Instant,
    duration: Histogram<f64>,
    code: Option<Code>,
    /// How the caller violated the protocol, if it did.
    violation: Option<&'static str>,
    log_throttle: Arc<LogThrottle>,
    /// The caller's address.
    address: IpAddr,
    /// Whether success is logged at level info: for calls that change something.
    logs_success: bool,
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        let name = mesh::code::name(code);
        let mut attributes = vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", self.method.to_string()),
            KeyValue::new(STATUS_CODE, name),
        ];
        self.span.record(STATUS_CODE, name);
        if is_failure(code) {
            attributes.push(KeyValue::new("error.type", name));
            self.span.record("otel.status_code", "ERROR");
        }
        let took = self.began.elapsed();
        self.duration.record(took.as_secs_f64(), &attributes);
        self.span.in_scope(|| self.log(code, took));
    }
}

impl CallRecord {
    /// Sets the status from headers or trailers, if they contain one.
    fn set_status(&mut self, headers: &HeaderMap) {
        self.code = code(headers);
        self.violation = self
            .code
            .and_then(|code| protocol::violation_reason(headers, code));
    }

    fn log(&self, code: Code, took: Duration) {
        let (method, status, duration_ms) = (&*self.method, mesh::code::name(code), took.as_secs_f64() * 1e3);
        if let Some(violation) = self.violation {
            self.log_throttle
                .protocol_violation(self.address, method, violation);
        } else if is_failure(code) {
            tracing::warn!(
                rpc.method = method,
                rpc.status = status,
                duration_ms,
                "a call failed"
            );
        } else if self.logs_success {
            tracing::info!(
                rpc.method = method,
                rpc.status = status,
                duration_ms,
                "a call ended"
            );
        } else {
            tracing::debug!(
                rpc.method = method,
                rpc.status = status,
                duration_ms,
                "a call ended"
            );
        }
    }
}

/// The codes that the semantic conventions count as server errors.
fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

struct ObservedBody {
    body: Body,
    record: CallRecord,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let span = self.record.span.clone();
        let frame = ready!(span.in_scope(|| Pin::new(&mut self.body).poll_frame(context)));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.record.set_status(trailers);
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

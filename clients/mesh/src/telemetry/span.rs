//! The spans of calls and attempts, their events, and the trace context in the request's headers (W3C).
//!
//! The headers are written here rather than by the global propagator: a channel must propagate the trace even in a
//! process that installs none.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    KeyValue,
    trace::{SpanContext, TraceContextExt},
};
use tokio::time::Instant;
use tonic::Code;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    call::{Attempt, AttemptOutcome},
    code,
    discovery::Address,
    endpoint::breaker::State,
    outlier_detection::Outlier,
};

/// The span of one call, a child of the caller's.
pub(crate) fn call(method: &str) -> Span {
    tracing::info_span!(
        "call",
        otel.name = %format_args!("Sent.{method}"),
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        mesh.attempts = Empty,
        mesh.retry.reason = Empty,
    )
}

/// The span of one attempt, a child of the call's.
pub(crate) fn attempt(attempt: &Attempt) -> Span {
    tracing::info_span!(
        "attempt",
        otel.name = %format_args!("Attempt.{}", attempt.method.name),
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = %attempt.method.name,
        rpc.grpc.previous_attempts = attempt.previous,
        rpc.response.status_code = Empty,
        server.address = Empty,
        network.peer.address = Empty,
        network.peer.port = Empty,
        mesh.route.group = Empty,
    )
}

/// Records on the current attempt's span the group of endpoints that a route has selected.
pub(crate) fn record_group(name: &str) {
    Span::current().record("mesh.route.group", name);
}

/// Records on the current attempt's span the chosen endpoint and the address of its process.
pub(crate) fn record_endpoint(address: &Address, peer: Option<SocketAddr>) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    span.record("server.address", address.authority.as_str());
    let (host, port) = address.peer(peer);
    span.record("network.peer.address", host.as_str());
    span.record("network.peer.port", port);
}

/// Records on the current call's span why and when it is repeated.
pub(crate) fn record_retry(outcome: &AttemptOutcome, attempts: u32, after: Duration) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    let reason = reason(outcome);
    span.record("mesh.attempts", attempts);
    span.record("mesh.retry.reason", reason.as_str());
    span.add_event(
        "retry",
        vec![
            KeyValue::new("mesh.attempts", i64::from(attempts)),
            KeyValue::new("mesh.retry.reason", reason),
            KeyValue::new("mesh.retry.delay_ms", after.as_secs_f64() * 1e3),
        ],
    );
}

/// Records on the current call's span that a hedge was started: after a failed attempt, or because no attempt has
/// answered in time.
pub(crate) fn record_hedge(failed: Option<&AttemptOutcome>, attempts: u32) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    let reason = failed.map_or_else(|| "no answer yet".to_owned(), reason);
    span.record("mesh.attempts", attempts);
    span.add_event(
        "hedge",
        vec![
            KeyValue::new("mesh.attempts", i64::from(attempts)),
            KeyValue::new("mesh.hedge.reason", reason),
        ],
    );
}

/// Records on the current call's span that the client throttled it, and with which probability.
pub(crate) fn record_throttled(probability: f64) {
    let span = Span::current();
    if !span.is_disabled() {
        span.add_event(
            "throttled",
            vec![KeyValue::new("mesh.throttle.probability", probability)],
        );
    }
}

fn reason(outcome: &AttemptOutcome) -> String {
    match outcome {
        Err(failure) => failure.status.to_string(),
        Ok(response) => code::name(code::early(response).unwrap_or(Code::Ok)).to_owned(),
    }
}

/// Writes `traceparent` and `tracestate` for the span, or for the caller's trace if the span is not recorded.
pub(crate) fn inject(span: &Span, headers: &mut HeaderMap) {
    let own = span.context();
    let ambient = opentelemetry::Context::current();
    let identity = [&own, &ambient]
        .into_iter()
        .map(|context| context.span().span_context().clone())
        .find(SpanContext::is_valid);
    let Some(identity) = identity else { return };
    let (trace, span, flags) = (
        identity.trace_id(),
        identity.span_id(),
        identity.trace_flags().to_u8(),
    );
    if let Ok(value) = HeaderValue::try_from(format!("00-{trace}-{span}-{flags:02x}")) {
        headers.insert("traceparent", value);
    }
    let state = identity.trace_state().header();
    if !state.is_empty()
        && let Ok(value) = HeaderValue::try_from(state)
    {
        headers.insert("tracestate", value);
    }
}

/// Records the ejection of an endpoint on the attempt's span and in the log.
pub(crate) fn ejected(address: &Address, peer: Option<SocketAddr>, state: &State) {
    let State::Ejected { reason, until, .. } = state else {
        return;
    };
    let duration_ms = until.saturating_duration_since(Instant::now()).as_millis() as u64;
    let (host, port) = address.peer(peer);
    tracing::warn!(
        server.address = %address.authority,
        network.peer.address = host,
        network.peer.port = port,
        reason,
        duration_ms,
        "endpoint ejected"
    );
    let mut attributes = vec![
        KeyValue::new("server.address", address.authority.to_string()),
        KeyValue::new("network.peer.address", host),
        KeyValue::new("mesh.ejection.reason", reason.clone()),
        KeyValue::new(
            "mesh.ejection.duration_ms",
            i64::try_from(duration_ms).unwrap_or(i64::MAX),
        ),
    ];
    attributes.extend(port.map(|port| KeyValue::new("network.peer.port", i64::from(port))));
    Span::current().add_event("ejection", attributes);
}

/// Records in the log that an outlier stays in rotation, and why it was detected.
pub(crate) fn unenforced(address: &Address, peer: Option<SocketAddr>, outlier: &Outlier) {
    let (host, port) = address.peer(peer);
    tracing::debug!(
        server.address = %address.authority,
        network.peer.address = host,
        network.peer.port = port,
        reason = outlier.reason,
        "outlier not ejected"
    );
}

//! The caller's trace context, from the headers (W3C Trace Context).

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The context in `traceparent` and `tracestate`; empty without them.
pub(crate) fn parent(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
}

/// Longest `traceparent` or `tracestate` that is propagated, in bytes.
const MAX_HEADER: usize = 512;

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key).and_then(|value| value.to_str().ok());
        // W3C allows dropping longer values.
        value.filter(|value| value.len() <= MAX_HEADER)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

//! The caller's trace, from its headers (W3C trace context).

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The context that `traceparent` and `tracestate` name; an empty one without them.
pub(crate) fn parent(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
}

/// The longest `traceparent` or `tracestate` that is carried on.
const MAX_HEADER: usize = 512;

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key).and_then(|value| value.to_str().ok());
        // What is longer than W3C's limit may be left out, and is kept by nothing here.
        value.filter(|value| value.len() <= MAX_HEADER)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

//! Records calls that the process rejects to protect itself and others: a counter, and an event on the call's
//! span.

use std::time::Duration;

use opentelemetry::{KeyValue, metrics::Counter};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::methods::Method;

pub(super) struct RejectedCalls(Counter<u64>);

impl RejectedCalls {
    pub(super) fn new() -> RejectedCalls {
        let meter = opentelemetry::global::meter("weft");
        let counter = meter
            .u64_counter("mesh.server.refused")
            .with_unit("{call}")
            .with_description("Calls refused before anything was started");
        RejectedCalls(counter.build())
    }

    /// Records that a call of `method` was rejected for `reason`, with the retry delay `wait`.
    pub(super) fn record(&self, method: Option<&Method>, reason: &'static str, wait: Duration) {
        let method = method.map_or("_OTHER", |method| method.name.as_str());
        let reason = KeyValue::new("mesh.refusal.reason", reason);
        self.0.add(
            1,
            &[KeyValue::new("rpc.method", method.to_owned()), reason.clone()],
        );
        let span = Span::current();
        if !span.is_disabled() {
            let wait = KeyValue::new("mesh.refusal.pushback_ms", wait.as_secs_f64() * 1e3);
            span.add_event("refusal", vec![reason, wait]);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::{
        metrics::{
            InMemoryMetricExporter, SdkMeterProvider,
            data::{AggregatedMetrics, MetricData},
        },
        trace::{InMemorySpanExporter, SdkTracerProvider},
    };
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn a_rejection_is_counted_with_its_reason() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter.clone())
            .build();
        opentelemetry::global::set_meter_provider(provider.clone());
        let rejected = RejectedCalls::new();
        rejected.record(None, "OVERLOADED", Duration::from_millis(100));
        rejected.record(None, "RATE_LIMITED", Duration::from_millis(100));
        provider.force_flush().unwrap();
        let exported = exporter.get_finished_metrics().unwrap();
        let mut metrics = exported
            .iter()
            .flat_map(|resource| resource.scope_metrics())
            .flat_map(|scope| scope.metrics());
        let refused = metrics
            .find(|metric| metric.name() == "mesh.server.refused")
            .unwrap();
        let AggregatedMetrics::U64(MetricData::Sum(sum)) = refused.data() else {
            panic!("a counter of whole numbers")
        };
        let mut reasons: Vec<_> = sum
            .data_points()
            .flat_map(|point| point.attributes())
            .filter(|attribute| attribute.key.as_str() == "mesh.refusal.reason")
            .map(|attribute| attribute.value.to_string())
            .collect();
        reasons.sort();
        assert_eq!(reasons, ["OVERLOADED", "RATE_LIMITED"]);
    }

    #[test]
    fn a_rejection_is_an_event_on_the_calls_span_with_its_reason_and_delay() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        // Created outside the span, because an instrument without a provider logs an event.
        let rejected = RejectedCalls::new();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let call = tracing::info_span!("a refused call");
            call.in_scope(|| rejected.record(None, "OVERLOADED", Duration::from_millis(100)));
        });
        let spans = exporter.get_finished_spans().unwrap();
        let event = &spans[0].events[0];
        let attributes: Vec<_> = event
            .attributes
            .iter()
            .map(|attribute| (attribute.key.as_str(), attribute.value.to_string()))
            .collect();
        assert_eq!(event.name, "refusal");
        assert_eq!(
            attributes,
            [
                ("mesh.refusal.reason", "OVERLOADED".to_owned()),
                ("mesh.refusal.pushback_ms", "100".to_owned())
            ]
        );
    }
}

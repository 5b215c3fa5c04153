//! Calls that the process refuses to protect itself and others: counted, and told on the call's span.

use std::time::Duration;

use opentelemetry::{KeyValue, metrics::Counter};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::call::Method;

pub(super) struct Refusals(Counter<u64>);

impl Refusals {
    pub(super) fn new() -> Refusals {
        let meter = opentelemetry::global::meter("weft");
        let counter = meter
            .u64_counter("mesh.server.refused")
            .with_unit("{call}")
            .with_description("Calls refused before anything was started");
        Refusals(counter.build())
    }

    /// Tells of a call of `method` that was refused for `reason`, and that may come back after `wait`.
    pub(super) fn tell(&self, method: Option<&Method>, reason: &'static str, wait: Duration) {
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
    use opentelemetry_sdk::metrics::{
        InMemoryMetricExporter, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData},
    };

    use super::*;

    #[test]
    fn a_refusal_is_counted_with_its_reason() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter.clone())
            .build();
        opentelemetry::global::set_meter_provider(provider.clone());
        let refusals = Refusals::new();
        refusals.tell(None, "OVERLOADED", Duration::from_millis(100));
        refusals.tell(None, "RATE_LIMITED", Duration::from_millis(100));
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
}

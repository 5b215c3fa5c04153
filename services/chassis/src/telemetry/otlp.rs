//! The exporters, as the `OTEL_*` variables say.

use anyhow::Context;
use opentelemetry::{global, trace::TracerProvider};
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::SdkMeterProvider,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};

pub(super) struct Exporters {
    pub(super) tracers: SdkTracerProvider,
    pub(super) meters: SdkMeterProvider,
    pub(super) loggers: Option<SdkLoggerProvider>,
    /// Where it goes; `None` when nowhere.
    pub(super) endpoint: Option<String>,
}

/// Starts one exporter per signal that has an endpoint.
pub(super) fn start(name: &'static str) -> anyhow::Result<Exporters> {
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(opentelemetry::KeyValue::new("service.version", crate::build()))
        .build();
    let (traces, metrics, logs) = (endpoint("TRACES"), endpoint("METRICS"), endpoint("LOGS"));

    let mut tracers = SdkTracerProvider::builder().with_resource(resource.clone());
    if traces.is_some() {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .build()
            .context("the trace exporter cannot start")?;
        tracers = tracers.with_batch_exporter(exporter);
    }
    let tracers = tracers.build();

    let mut meters = SdkMeterProvider::builder().with_resource(resource.clone());
    if metrics.is_some() {
        let exporter = MetricExporter::builder()
            .with_tonic()
            .build()
            .context("the metric exporter cannot start")?;
        meters = meters.with_periodic_exporter(exporter);
    }
    let meters = meters.build();

    let mut loggers = None;
    if logs.is_some() {
        let exporter = LogExporter::builder()
            .with_tonic()
            .build()
            .context("the log exporter cannot start")?;
        loggers = Some(
            SdkLoggerProvider::builder()
                .with_resource(resource)
                .with_batch_exporter(exporter)
                .build(),
        );
    }

    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(tracers.clone());
    global::set_meter_provider(meters.clone());
    Ok(Exporters {
        tracers,
        meters,
        loggers,
        endpoint: traces.or(metrics).or(logs),
    })
}

pub(super) fn tracer(tracers: &SdkTracerProvider) -> SdkTracer {
    tracers.tracer("weft")
}

/// The endpoint of a signal, when it is to be exported.
fn endpoint(signal: &str) -> Option<String> {
    let set = |name: String| std::env::var(name).ok().filter(|value| !value.is_empty());
    let disabled =
        set("OTEL_SDK_DISABLED".to_owned()).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if disabled || set(format!("OTEL_{signal}_EXPORTER")).as_deref() == Some("none") {
        return None;
    }
    set(format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))
        .or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()))
}

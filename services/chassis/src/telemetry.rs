//! Telemetry: JSON logs on stderr; and traces, metrics and logs by OTLP when the standard `OTEL_*` variables set a
//! collector.

mod environment;
mod json;
mod log_writer;
mod otlp;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::PanicHookInfo,
};

use environment::Environment;
pub(crate) use log_writer::LogWriter;
use opentelemetry_sdk::{logs::SdkLoggerProvider, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::Violations;

/// What is logged.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Levels by target, as in `info,order=debug`. Default `info`, and `warn` for verbose libraries.
    pub log: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            log: "info,h2=warn,hyper=warn,tonic=warn,tower=warn,sqlx=warn,opentelemetry=warn".to_owned(),
        }
    }
}

impl Settings {
    pub(crate) fn check(&self, violations: &mut Violations) {
        if let Err(error) = EnvFilter::try_new(&self.log) {
            violations.add("log", format!("cannot be read: {error}"));
        }
    }
}

/// The running telemetry; flush it last.
#[derive(Debug)]
pub(crate) struct Telemetry {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    loggers: Option<SdkLoggerProvider>,
}

/// Violations in the `OTEL_*` variables and the files that they name.
pub(crate) fn check_environment() -> Violations {
    let environment = Environment::new(std::env::vars_os());
    let mut violations = Violations::new();
    environment.check(&mut violations);
    for signal in environment.secure_signals() {
        if let Err(found) = otlp::tls(&environment, signal) {
            // A violation that applies to all signals is reported once.
            let known = found
                .iter()
                .all(|fault| violations.iter().any(|reported| reported == fault));
            if !known {
                violations.extend(found);
            }
        }
    }
    violations
}

/// Starts logging to `writer`, and exporting if a collector is set. Needs a running runtime.
pub(crate) fn start(
    name: &'static str,
    settings: &Settings,
    writer: &LogWriter,
) -> anyhow::Result<Telemetry> {
    let environment = Environment::new(std::env::vars_os());
    let otlp::Exporters {
        tracers,
        meters,
        loggers,
        endpoint,
    } = otlp::start(name, &environment)?;
    let logs = tracing_subscriber::fmt::layer()
        .event_format(json::Json { service: name })
        .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
        .with_writer(writer.lines.clone())
        .with_filter(EnvFilter::try_new(&settings.log)?);
    // Spans exist without a collector too: logs contain their ids, and called services continue the trace.
    let spans = tracing_opentelemetry::layer()
        .with_tracer(otlp::tracer(&tracers))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_filter(export_filter());
    let exported = loggers.as_ref().map(|loggers| {
        opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge::new(loggers)
            .with_filter(export_filter())
    });
    tracing_subscriber::registry()
        .with(spans)
        .with(exported)
        .with(logs)
        .try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    writer.dropped.register_metric();
    match endpoint {
        Some(endpoint) => tracing::info!(otlp.endpoint = endpoint, "exporting telemetry"),
        None => tracing::info!("no OTEL_EXPORTER_OTLP_ENDPOINT is set: traces and metrics are not exported"),
    }
    for variable in environment.without_effect() {
        tracing::warn!(
            variable,
            "this variable is set and has no effect; docs/telemetry.md lists the supported ones"
        );
    }
    Ok(Telemetry {
        tracers,
        meters,
        loggers,
    })
}

/// Logs a panic like any other line; the default hook would block on standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied());
    tracing::error!(
        panic.message = message.unwrap_or("no text"),
        panic.location = panic.location().map(display),
        // Empty unless RUST_BACKTRACE is set.
        panic.backtrace = backtrace().map(display),
        thread.name = std::thread::current().name(),
        "panicked"
    );
}

fn backtrace() -> Option<Backtrace> {
    let backtrace = Backtrace::capture();
    (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace)
}

/// Excludes the transport's spans and events: exporting them would create more of them.
fn export_filter() -> Targets {
    let silent = tracing_subscriber::filter::LevelFilter::OFF;
    [
        "h2",
        "hyper",
        "hyper_util",
        "tonic",
        "tower",
        "opentelemetry",
        "opentelemetry_sdk",
        "opentelemetry_otlp",
    ]
    .into_iter()
    .fold(
        Targets::new().with_default(tracing::Level::INFO),
        |targets, target| targets.with_target(target, silent),
    )
}

impl Telemetry {
    /// Exports what is left. Each signal may block for a few seconds when the collector is down, so they run
    /// concurrently on blocking threads.
    pub(crate) async fn flush(self) {
        let Telemetry {
            tracers,
            meters,
            loggers,
        } = self;
        let flushing = [
            spawn_blocking(move || tracers.shutdown()),
            spawn_blocking(move || meters.shutdown()),
            spawn_blocking(move || loggers.map_or(Ok(()), |loggers| loggers.shutdown())),
        ];
        for flushed in flushing {
            // At this point a failed export cannot be reported.
            let _ = flushed.await;
        }
    }
}

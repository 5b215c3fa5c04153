//! The exporters, configured by the `OTEL_*` variables.

use anyhow::Context;
use opentelemetry::{global, trace::TracerProvider};
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::SdkMeterProvider,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::Violations;

use super::environment::{Environment, SIGNALS, is_secure};

pub(super) struct Exporters {
    pub(super) tracers: SdkTracerProvider,
    pub(super) meters: SdkMeterProvider,
    pub(super) loggers: Option<SdkLoggerProvider>,
    /// The first endpoint in use; `None` when nothing is exported.
    pub(super) endpoint: Option<String>,
}

/// Starts one exporter per signal that has an endpoint.
pub(super) fn start(name: &'static str, environment: &Environment) -> anyhow::Result<Exporters> {
    let resource = Resource::builder()
        .with_service_name(environment.service_name().unwrap_or(name).to_owned())
        .with_attribute(opentelemetry::KeyValue::new("service.version", crate::build()))
        .build();
    let [traces, metrics, logs] = SIGNALS.map(|signal| environment.endpoint(signal));

    let mut tracers = SdkTracerProvider::builder().with_resource(resource.clone());
    if let Some(endpoint) = &traces {
        let builder = SpanExporter::builder().with_tonic();
        let exporter = configure(endpoint, environment, "TRACES", builder)?
            .build()
            .context("the trace exporter cannot start")?;
        tracers = tracers.with_batch_exporter(exporter);
    }
    let tracers = tracers.build();

    let mut meters = SdkMeterProvider::builder().with_resource(resource.clone());
    if let Some(endpoint) = &metrics {
        let builder = MetricExporter::builder().with_tonic();
        let exporter = configure(endpoint, environment, "METRICS", builder)?
            .build()
            .context("the metric exporter cannot start")?;
        meters = meters.with_periodic_exporter(exporter);
    }
    let meters = meters.build();

    let mut loggers = None;
    if let Some(endpoint) = &logs {
        let builder = LogExporter::builder().with_tonic();
        let exporter = configure(endpoint, environment, "LOGS", builder)?
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
    // Without a reader, a provider logs errors about observable instruments.
    if metrics.is_some() {
        global::set_meter_provider(meters.clone());
    }
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

/// Configures an exporter for `endpoint`, with TLS for `https://`.
fn configure<B: WithExportConfig + WithTonicConfig>(
    endpoint: &str,
    environment: &Environment,
    signal: &str,
    exporter: B,
) -> anyhow::Result<B> {
    let exporter = exporter.with_endpoint(endpoint);
    if !is_secure(endpoint) {
        return Ok(exporter);
    }
    Ok(exporter.with_tls_config(tls(environment, signal)?))
}

/// The TLS configuration of a collector's client: the authorities of `…_CERTIFICATE`, or the public ones, and a
/// client certificate if one is set.
pub(super) fn tls(environment: &Environment, signal: &str) -> Result<ClientTlsConfig, Violations> {
    let read = |what: &str| -> Result<Option<(String, Vec<u8>)>, Violations> {
        let Some((name, path)) = environment.exporter_variable(signal, what) else {
            return Ok(None);
        };
        match std::fs::read(path) {
            Ok(pem) => Ok(Some((name, pem))),
            Err(error) => Err(violation(&name, format!("cannot read {path}: {error}"))),
        }
    };
    let tls = match read("CERTIFICATE")? {
        Some((name, authorities)) => {
            check_certificates(&name, &authorities)?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities))
        }
        None => ClientTlsConfig::new().with_webpki_roots(),
    };
    match (read("CLIENT_CERTIFICATE")?, read("CLIENT_KEY")?) {
        (Some((name, certificate)), Some((key_name, key))) => {
            check_certificates(&name, &certificate)?;
            PrivateKeyDer::from_pem_slice(&key)
                .map_err(|_| violation(&key_name, "the file holds no private key in PEM"))?;
            Ok(tls.identity(Identity::from_pem(certificate, key)))
        }
        _ => Ok(tls),
    }
}

/// The transport accepts a file without certificates, and would then trust no server.
fn check_certificates(name: &str, pem: &[u8]) -> Result<(), Violations> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(()),
        _ => Err(violation(name, "the file holds no certificate in PEM")),
    }
}

fn violation(name: &str, description: impl Into<String>) -> Violations {
    let mut violations = Violations::new();
    violations.add(name, description);
    violations
}

//! An OTLP collector that stores what it receives.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value},
    logs::v1::LogRecord,
    metrics::v1::{Metric, metric, number_data_point},
    resource::v1::Resource,
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Request, Response, Status, async_trait,
    codec::CompressionEncoding,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

/// A received span with the service that sent it.
#[derive(Clone, Debug)]
pub struct ReceivedSpan {
    /// `service.name` of its resource.
    pub service: String,
    /// The span.
    pub span: Span,
}

/// The collector; it receives traces, metrics and logs until it is dropped.
#[derive(Debug)]
pub struct Collector {
    scheme: &'static str,
    address: SocketAddr,
    received: Received,
    _running: DropGuard,
}

#[derive(Clone, Debug, Default)]
struct Received(Arc<Mutex<Signals>>);

#[derive(Debug, Default)]
struct Signals {
    spans: Vec<ReceivedSpan>,
    /// The latest value by service and name.
    metrics: BTreeMap<(String, String), Metric>,
    logs: Vec<(String, LogRecord)>,
}

impl Collector {
    /// Starts a collector on a free port.
    pub async fn start() -> Collector {
        Collector::serving("http", Server::builder()).await
    }

    /// Starts a collector that accepts only TLS, and only clients with a certificate of `clients`. All three are
    /// PEM; the certificate is for 127.0.0.1.
    ///
    /// # Panics
    /// When the certificate and its key do not belong together.
    pub async fn secured(certificate: &str, key: &str, clients: &str) -> Collector {
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(clients));
        let server = Server::builder()
            .tls_config(tls)
            .expect("certificate and key belong together");
        Collector::serving("https", server).await
    }

    async fn serving(scheme: &'static str, mut server: Server) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let received = Received::default();
        let running = CancellationToken::new();
        let gzip = CompressionEncoding::Gzip;
        let server = server
            .add_service(TraceServiceServer::new(received.clone()).accept_compressed(gzip))
            .add_service(MetricsServiceServer::new(received.clone()).accept_compressed(gzip))
            .add_service(LogsServiceServer::new(received.clone()).accept_compressed(gzip))
            .serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                running.clone().cancelled_owned(),
            );
        tokio::spawn(server);
        Collector {
            scheme,
            address,
            received,
            _running: running.drop_guard(),
        }
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.received.signals().spans.clone()
    }

    /// Whether a service has sent a metric of this name.
    pub fn has_metric(&self, service: &str, name: &str) -> bool {
        self.metrics().contains(&(service.to_owned(), name.to_owned()))
    }

    /// The services and the names of the metrics that they have sent.
    pub fn metrics(&self) -> BTreeSet<(String, String)> {
        self.received.signals().metrics.keys().cloned().collect()
    }

    /// The last value of a service's counter, summed over all its data points.
    pub fn counter(&self, service: &str, name: &str) -> Option<i64> {
        let signals = self.received.signals();
        let metric = signals.metrics.get(&(service.to_owned(), name.to_owned()))?;
        let Some(metric::Data::Sum(sum)) = &metric.data else {
            return None;
        };
        let counted = sum.data_points.iter().filter_map(|point| match point.value? {
            number_data_point::Value::AsInt(value) => Some(value),
            number_data_point::Value::AsDouble(_) => None,
        });
        Some(counted.sum())
    }

    /// The last value of a service's gauge at the data point with the attribute.
    pub fn gauge(&self, service: &str, name: &str, attribute: (&str, &str)) -> Option<f64> {
        let signals = self.received.signals();
        let metric = signals.metrics.get(&(service.to_owned(), name.to_owned()))?;
        let Some(metric::Data::Gauge(gauge)) = &metric.data else {
            return None;
        };
        let point = gauge
            .data_points
            .iter()
            .find(|point| text(&point.attributes, attribute.0) == Some(attribute.1))?;
        match point.value? {
            number_data_point::Value::AsDouble(value) => Some(value),
            number_data_point::Value::AsInt(value) => Some(value as f64),
        }
    }

    /// All log records so far, with the service that sent them.
    pub fn logs(&self) -> Vec<(String, LogRecord)> {
        self.received.signals().logs.clone()
    }
}

impl Received {
    fn signals(&self) -> MutexGuard<'_, Signals> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

fn service_of(resource: Option<&Resource>) -> String {
    let name = resource.and_then(|resource| text(&resource.attributes, "service.name"));
    name.unwrap_or_default().to_owned()
}

/// The attribute's value, if it exists and is a string.
fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let service = service_of(resource.resource.as_ref());
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.signals().spans.extend(spans.map(|span| ReceivedSpan {
                service: service.clone(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for resource in request.into_inner().resource_metrics {
            let service = service_of(resource.resource.as_ref());
            let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            self.signals()
                .metrics
                .extend(metrics.map(|metric| ((service.clone(), metric.name.clone()), metric)));
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[async_trait]
impl LogsService for Received {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        for resource in request.into_inner().resource_logs {
            let service = service_of(resource.resource.as_ref());
            let records = resource
                .scope_logs
                .into_iter()
                .flat_map(|scope| scope.log_records);
            self.signals()
                .logs
                .extend(records.map(|record| (service.clone(), record)));
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

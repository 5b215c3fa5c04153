//! Traces continue in the callee, and metrics have the names of the conventions.

use std::{sync::Arc, time::Duration};

use opentelemetry::{KeyValue, global, trace::TracerProvider};
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, SdkMeterProvider,
        data::{AggregatedMetrics, Metric, MetricData},
    },
    trace::{InMemorySpanExporter, SdkTracerProvider},
};
use tonic::Status;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;
use weft_mesh::Channel;

use crate::echo::{self, READ, Server};

#[tokio::test]
async fn the_callee_continues_the_trace_and_every_attempt_is_a_span() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    // If another test registers a span's call site while this one sets its subscriber, the call site is cached as
    // disabled.
    let other = Server::start(|_| async { Err(Status::unavailable("never")) });
    echo::call_empty(&echo::channel(&[other.address]), READ)
        .await
        .unwrap_err();
    tracing::callsite::rebuild_interest_cache();
    exporter.reset();

    let failed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let server = Server::start(move |headers| {
        let first = !failed.swap(true, std::sync::atomic::Ordering::SeqCst);
        async move {
            if first {
                return Err(Status::unavailable("not now"));
            }
            Ok(headers["traceparent"].to_str().unwrap().to_owned())
        }
    });
    let channel = echo::channel(&[server.address]);
    let parent = async { echo::call_empty(&channel, READ).await.unwrap() }
        .instrument(tracing::info_span!("handler"))
        .await;

    let spans = exporter.get_finished_spans().unwrap();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let attempts = named("Attempt.mesh.test.v1.EchoService/Read");
    let calls = named("Sent.mesh.test.v1.EchoService/Read");
    assert_eq!((attempts.len(), calls.len(), named("handler").len()), (2, 1, 1));
    let (trace, call) = (calls[0].span_context.trace_id(), calls[0].span_context.span_id());
    assert!(attempts.iter().all(|attempt| attempt.parent_span_id == call));
    assert_eq!(
        parent,
        format!("00-{trace}-{}-01", attempts[1].span_context.span_id())
    );
    for (key, expected) in [
        ("network.peer.address", "127.0.0.1".to_owned()),
        ("network.peer.port", server.address.port().to_string()),
    ] {
        let found = attempts[0]
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == key);
        assert_eq!(found.unwrap().value.as_str(), expected, "{key}");
    }
    let attribute = |key: &str| {
        calls[0]
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == key)
    };
    assert_eq!(
        attribute("mesh.retry.reason").unwrap().value.as_str(),
        "UNAVAILABLE"
    );
    let events: Vec<_> = calls[0].events.iter().map(|event| &*event.name).collect();
    assert_eq!(events, ["retry"]);

    // A hedge event has the reason: the first attempt failed, or did not answer.
    for (answers, delay_ms, reason) in [(true, 4_000, "UNAVAILABLE"), (false, 20, "no answer yet")] {
        exporter.reset();
        let first = std::sync::atomic::AtomicBool::new(true);
        let server = Server::start(move |_| {
            let first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
            async move {
                match (first, answers) {
                    (true, true) => Err(Status::unavailable("not now")),
                    (true, false) => std::future::pending().await,
                    (false, _) => Ok(String::new()),
                }
            }
        });
        let options = echo::options(&[server.address]);
        let policies = crate::hedging::hedged(Duration::from_millis(delay_ms));
        let channel = Channel::connect(options, &policies).unwrap();
        echo::call_empty(&channel, READ).await.unwrap();
        let spans = exporter.get_finished_spans().unwrap();
        let call = spans.iter().find(|span| span.name.starts_with("Sent.")).unwrap();
        let hedges: Vec<_> = call.events.iter().filter(|event| event.name == "hedge").collect();
        let reasons: Vec<_> = hedges
            .iter()
            .flat_map(|event| &event.attributes)
            .filter(|attribute| attribute.key.as_str() == "mesh.hedge.reason")
            .map(|attribute| attribute.value.as_str())
            .collect();
        assert_eq!(reasons, [reason]);
    }

    // Of two endpoints that fail one is ejected, with an event on the span of the attempt that caused it.
    exporter.reset();
    let broken = || Server::start(|_| async { Err(Status::unavailable("broken")) });
    let (first, second) = (broken(), broken());
    let channel = echo::channel(&[first.address, second.address]);
    let ejection_reported = || {
        let spans = exporter.get_finished_spans().unwrap();
        let events = spans
            .iter()
            .flat_map(|span| span.events.iter().cloned().collect::<Vec<_>>());
        let mut ejections = events.filter(|event| event.name == "ejection");
        ejections.any(|event| {
            let reason = |of: &KeyValue| of.key.as_str() == "mesh.ejection.reason";
            event.attributes.iter().any(reason)
        })
    };
    while !ejection_reported() {
        echo::call_empty(&channel, READ).await.unwrap_err();
    }
}

#[tokio::test]
async fn calls_attempts_and_retries_are_counted_under_the_conventions_names() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(exporter.clone())
        .build();
    global::set_meter_provider(provider.clone());
    let failed = std::sync::atomic::AtomicBool::new(false);
    let server = Server::start(move |_| {
        let first = !failed.swap(true, std::sync::atomic::Ordering::SeqCst);
        async move {
            if first {
                Err(Status::unavailable("not now"))
            } else {
                Ok(String::new())
            }
        }
    });
    let channel = Channel::connect(echo::options(&[server.address]), &echo::policies()).unwrap();
    echo::call_empty(&channel, READ).await.unwrap();
    // Of two endpoints that fail only one is ejected.
    let broken = || Server::start(|_| async { Err(Status::unavailable("broken")) });
    let (first, second) = (broken(), broken());
    let channel = echo::channel(&[first.address, second.address]);
    while first.calls() < 7 || second.calls() < 7 {
        echo::call_empty(&channel, READ).await.unwrap_err();
    }
    // Attempts that a route has sent to a group have the group's name.
    let mut options = echo::options(&[]);
    options.target = format!("static:http://{};version=v2", server.address);
    options.tuning.service_config = Some(crate::routes::ONLY_V2.to_owned());
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    echo::call_empty(&channel, READ).await.unwrap();
    provider.force_flush().unwrap();

    let exported = exporter.get_finished_metrics().unwrap();
    let names: Vec<_> = exported
        .iter()
        .flat_map(|resource| resource.scope_metrics())
        .flat_map(|scope| scope.metrics())
        .map(|metric| metric.name().to_owned())
        .collect();
    for name in [
        "rpc.client.call.duration",
        "grpc.client.attempt.started",
        "grpc.client.attempt.duration",
        "grpc.client.call.retries",
        "grpc.client.call.retry_delay",
        "grpc.lb.outlier_detection.ejections_enforced",
        "grpc.lb.outlier_detection.ejections_unenforced",
    ] {
        assert!(
            names.iter().any(|exported| exported == name),
            "{name} is missing in {names:?}"
        );
    }
    let mut metrics = exported
        .iter()
        .flat_map(|resource| resource.scope_metrics())
        .flat_map(|scope| scope.metrics());
    let in_group = |metric: &Metric| {
        let AggregatedMetrics::F64(MetricData::Histogram(durations)) = metric.data() else {
            return false;
        };
        let group = KeyValue::new("mesh.route.group", "version=v2");
        let mut points = durations.data_points();
        points.any(|point| point.attributes().any(|attribute| *attribute == group))
    };
    assert!(metrics.any(|metric| metric.name() == "grpc.client.attempt.duration" && in_group(metric)));
}

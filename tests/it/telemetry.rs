//! One trace from the caller to the last consumer, as a collector receives it.

use std::{collections::BTreeSet, time::Duration};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use proto::order::v1::{OrderState, order_service_client::OrderServiceClient};
use tests::{Collector, Options, ReceivedSpan, Service, Stack, eventually};
use tonic::Request;

use crate::samples;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const RPC_METRICS: [&str; 2] = ["rpc.server.call.duration", "rpc.client.call.duration"];

/// A stack with short export intervals, an order with a declined card, and the collector that received its
/// telemetry.
async fn declined_order() -> (Stack, Collector) {
    let collector = Collector::start().await;
    let options = Options::default()
        .environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .environment("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .environment("OTEL_BSP_SCHEDULE_DELAY", "100")
        .environment("OTEL_BLRP_SCHEDULE_DELAY", "100")
        .environment("OTEL_METRIC_EXPORT_INTERVAL", "500");
    let stack = Stack::with(options).await;
    let mut orders =
        OrderServiceClient::new(stack.connect(Service::Order, &stack.token("traced", &["clerk"])));
    let mut request = Request::new(samples::insured_order("tok_decline"));
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    let order = orders
        .place_order(request)
        .await
        .unwrap()
        .into_inner()
        .order
        .unwrap();
    assert_eq!(order.state(), OrderState::Rejected);
    (stack, collector)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_spans_the_caller_the_services_the_processor_and_the_events() {
    let (_stack, collector) = declined_order().await;
    let seen = |service: &str, kind: SpanKind, name: &str| {
        spans(&collector).into_iter().any(|seen| {
            seen.service == service && seen.span.kind == kind as i32 && seen.span.name.contains(name)
        })
    };
    eventually(Duration::from_secs(15), || async {
        let missing: Vec<_> = [
            ("order", SpanKind::Server, "order.v1.OrderService/PlaceOrder"),
            (
                "order",
                SpanKind::Client,
                "payment.v1.PaymentService/AuthorizePayment",
            ),
            (
                "payment",
                SpanKind::Server,
                "payment.v1.PaymentService/AuthorizePayment",
            ),
            ("payment", SpanKind::Client, "processor AUTHORIZE"),
            ("claims", SpanKind::Server, "claims.v1.ClaimService/PrepareClaim"),
            ("order", SpanKind::Producer, ""),
            ("claims", SpanKind::Consumer, ""),
        ]
        .into_iter()
        .filter(|(service, kind, name)| !seen(service, *kind, name))
        .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("not seen: {missing:?} in {:#?}", outline(&collector)))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rpc_metrics_and_logs_with_trace_ids_arrive_under_their_conventional_names() {
    let (_stack, collector) = declined_order().await;
    eventually(Duration::from_secs(15), || async {
        let missing: Vec<_> = RPC_METRICS
            .iter()
            .filter(|metric| !collector.has_metric("order", metric))
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{missing:?} of {:?}", collector.metrics()))
        }
    })
    .await;
    let trace: Vec<u8> = hex(TRACE);
    eventually(Duration::from_secs(15), || async {
        collector
            .logs()
            .iter()
            .any(|(_, record)| record.trace_id == trace)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_that_have_not_ended_are_counted_by_state_with_the_age_of_the_oldest() {
    let (stack, collector) = declined_order().await;
    let stuck =
        "update orders.saga set state = 'stuck', wake_at = now() + interval '1 day', lease_until = null,
                 created_at = now() - interval '1 hour', deadline_at = now() - interval '1 minute'";
    let rows = sqlx::query(stuck)
        .execute(&stack.database(Service::Order).owner().await)
        .await
        .unwrap();
    assert_eq!(rows.rows_affected(), 1);
    let gauge = |name: &str, state: &str| collector.gauge("order", name, ("weft.saga.state", state));
    eventually(Duration::from_secs(20), || async {
        gauge("weft.saga.open", "stuck") == Some(1.0) && gauge("weft.saga.open", "running") == Some(0.0)
    })
    .await;
    let oldest = gauge("weft.saga.oldest", "stuck").unwrap();
    assert!((3_600.0..7_200.0).contains(&oldest), "{oldest} s");
    assert!(collector.has_metric("order", "weft.saga.overdue"));
}

/// The spans of the caller's trace.
fn spans(collector: &Collector) -> Vec<ReceivedSpan> {
    let trace = hex(TRACE);
    collector
        .spans()
        .into_iter()
        .filter(|seen| seen.span.trace_id == trace)
        .collect()
}

fn outline(collector: &Collector) -> BTreeSet<String> {
    spans(collector)
        .iter()
        .map(|seen| format!("{} {:?} {}", seen.service, seen.span.kind(), seen.span.name))
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

//! Log output, and its behaviour when the log is not read.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proto::{
    claims::v1::{GetClaimRequest, claim_service_client::ClaimServiceClient},
    payment::v1::{GetPaymentRequest, payment_service_client::PaymentServiceClient},
};
use serde_json::Value;
use tests::{Collector, eventually, hop_service::Behavior};
use tonic::Code;

use crate::mesh_fixture::{Caller, hops};

/// Limit of all waits; no assertion depends on how long a wait takes.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_log_blocks_no_call_and_dropped_lines_are_counted() {
    let collector = Collector::start().await;
    let environment = BTreeMap::from([
        ("OTEL_METRICS_EXPORTER".to_owned(), "otlp".to_owned()),
        (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT".to_owned(),
            collector.endpoint(),
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL".to_owned(), "200".to_owned()),
    ]);
    let hops = hops();
    // Each call writes many lines; a pipe holds 64 KiB, and some thousand lines queue behind it.
    let (hop, log) = hops
        .start_piped(&environment, &[("telemetry.log", "trace")])
        .await;
    let caller = Caller::new(&hops, [&hop]);
    let dropped = || collector.counter("hop", "weft.log.dropped").unwrap_or_default();
    eventually(SOON, || async {
        caller.list().await.unwrap();
        dropped() > 0
    })
    .await;
    for _ in 0..100 {
        caller.list().await.unwrap();
    }

    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let reader = std::thread::spawn(move || {
        // The counts of the service itself; the libraries write lines until the exporters have ended.
        let mut own = Vec::new();
        for line in BufReader::new(log).lines() {
            counted.fetch_add(1, Ordering::Relaxed);
            let line = line.unwrap();
            if line.contains("\"target\":\"chassis::run\"") || line.contains("log_writer\"") {
                own.push(line);
            }
        }
        own
    });
    eventually(SOON, || async { taken.load(Ordering::Relaxed) > 8_192 }).await;
    assert!(hop.stop().await.success());
    let own = reader.join().unwrap();
    let says = |line: &String, message: &str| line.contains(&format!("\"message\":\"{message}\""));
    assert!(says(own.last().unwrap(), "stopped"), "{own:#?}");
    assert!(own.iter().any(|line| says(line, "log lines dropped")), "{own:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_an_unread_log_stops_in_time() {
    let hops = hops();
    let (hop, log) = hops
        .start_piped(&BTreeMap::new(), &[("telemetry.log", "trace")])
        .await;
    let caller = Caller::new(&hops, [&hop]);
    for _ in 0..200 {
        caller.list().await.unwrap();
    }
    // The pipe is full, and stays so.
    assert!(hop.stop().await.success());
    drop(log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_logged_as_a_structured_line() {
    let hops = hops();
    let hop = hops.start(&[]).await;
    let caller = Caller::new(&hops, [&hop]);
    caller.list().await.unwrap();
    hop.set_behavior(Behavior {
        panic: true,
        ..Behavior::default()
    })
    .await;
    caller.cancel().await.unwrap_err();
    hop.set_behavior(Behavior::default()).await;
    eventually(SOON, || async { caller.list().await }).await;
    assert!(hop.stop().await.success());
    let log = hop.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let panicked = lines.iter().find(|line| line["message"] == "panicked");
    let panicked = panicked.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(panicked["panic.message"], "the hop is set to panic");
    assert!(
        panicked["panic.location"]
            .as_str()
            .unwrap()
            .contains("handlers.rs")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_errors_of_callers_do_not_flood_the_log() {
    let hops = hops();
    let hop = hops.start(&[]).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", hop.address()))
        .unwrap()
        .connect_lazy();
    for _ in 0..100 {
        let mut claims = ClaimServiceClient::new(channel.clone());
        let refused = claims.get_claim(GetClaimRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        let mut payments = PaymentServiceClient::new(channel.clone());
        let refused = payments
            .get_payment(GetPaymentRequest::default())
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
    assert!(hop.stop().await.success());
    let log = hop.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("broke gRPC's protocol"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(log.lines().count() < 30, "{log}");
}

//! A configured outlier detection ejects an endpoint that the default breaker keeps.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use tonic::Status;
use weft_mesh::{Channel, Error, snapshot::Endpoint};

use crate::echo::{self, Server, WRITE};

const PATH: &str = "loadBalancingConfig[0].outlier_detection_experimental";

/// Success rates among three endpoints: one that is worse than two equal ones is 1.4 standard deviations below the
/// mean.
const POLICY: &str = r#"{"loadBalancingConfig": [{"outlier_detection_experimental": {
    "interval": "1s",
    "baseEjectionTime": "3600s",
    "maxEjectionTime": "3600s",
    "maxEjectionPercent": 34,
    "successRateEjection": {"stdevFactor": 1200, "minimumHosts": 3, "requestVolume": 4},
    "childPolicy": [{"round_robin": {}}]
}}]}"#;

fn endpoint(channel: &Channel, server: &Server) -> Endpoint {
    let endpoints = channel.snapshot().endpoints;
    let address = server.address.to_string();
    endpoints
        .into_iter()
        .find(|endpoint| endpoint.address == address)
        .unwrap()
}

#[tokio::test]
async fn an_endpoint_that_fails_every_third_call_is_ejected_under_a_policy_and_returns_without_it() {
    let calls = Arc::new(AtomicUsize::new(0));
    let flaky = Server::start(move |_| {
        let fails = calls.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        async move {
            if fails {
                return Err(Status::unavailable("every third"));
            }
            Ok(String::new())
        }
    });
    let good = || Server::start(|_| async { Ok(String::new()) });
    let (second, third) = (good(), good());
    let mut options = echo::options(&[flaky.address, second.address, third.address]);
    // Six calls at once occupy every endpoint, also one that costs more than the others.
    options.tuning.max_in_flight = 2;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    let connected = || {
        channel
            .snapshot()
            .endpoints
            .into_iter()
            .filter(|endpoint| endpoint.connected)
    };
    while connected().count() < 3 {
        tokio::task::yield_now().await;
    }
    let round = async |calls: usize| {
        let calls = (0..calls).map(|_| echo::call_empty(&channel, WRITE));
        join_all(calls)
            .await
            .iter()
            .filter(|answer| answer.is_err())
            .count()
    };

    // By default less than half of the calls failing is no reason.
    while flaky.calls() < 60 {
        round(6).await;
    }
    assert_eq!(endpoint(&channel, &flaky).breaker, "closed");
    assert_eq!(channel.snapshot().outlier_detection, None);

    channel.reconfigure(POLICY).unwrap();
    let policy = channel.snapshot().outlier_detection.unwrap();
    assert_eq!((policy.source.as_str(), policy.interval_ms), (PATH, 1_000));
    while endpoint(&channel, &flaky).breaker == "closed" {
        round(6).await;
    }
    let ejected = endpoint(&channel, &flaky);
    let reason = ejected.reason.unwrap();
    assert!(
        reason.starts_with("success rate ") && reason.contains(" %, mean "),
        "{reason}"
    );
    assert!(ejected.connected && ejected.ejected_for_ms.unwrap() > 3_500_000);
    let before = flaky.calls();
    for _ in 0..20 {
        assert_eq!(round(4).await, 0, "the others fail no call");
    }
    assert_eq!(flaky.calls(), before);

    // An invalid policy changes nothing, and without a policy the endpoint returns.
    let invalid = POLICY.replace("34", "134");
    match channel.reconfigure(&invalid) {
        Err(Error::ServiceConfig { path, .. }) => assert_eq!(path, format!("{PATH}.maxEjectionPercent")),
        other => panic!("{other:?}"),
    }
    assert_eq!(endpoint(&channel, &flaky).breaker, "ejected");
    channel.reconfigure("{}").unwrap();
    while flaky.calls() == before {
        round(6).await;
    }
    assert_eq!(endpoint(&channel, &flaky).breaker, "closed");
    assert_eq!(endpoint(&channel, &second).breaker, "closed");
}

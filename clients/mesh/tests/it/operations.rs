//! Snapshots, service configs and injected faults.

use std::time::Duration;

use tonic::{Code, Status};
use weft_mesh::{Channel, Context, Error, Fault};

use crate::echo::{self, READ, Server, WRITE};

fn answering() -> Server {
    Server::start(|_| async { Ok(String::new()) })
}

#[tokio::test]
async fn a_snapshot_shows_endpoints_breakers_and_the_sources_of_policies() {
    let good = answering();
    let bad = Server::start(|_| async { Err(Status::unavailable("broken")) });
    let dead = echo::unused_address();
    let mut options = echo::options(&[good.address, bad.address, dead]);
    options.tuning.service_config = Some(
        r#"{"methodConfig": [{"name": [{"service": "mesh.test.v1.EchoService", "method": "Write"}], "timeout": "1.5s"}]}"#
            .to_owned(),
    );
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    let endpoint = |address: std::net::SocketAddr| {
        let endpoints = channel.snapshot().endpoints;
        endpoints
            .into_iter()
            .find(|endpoint| endpoint.address == address.to_string())
            .unwrap()
    };
    while !endpoint_connected(&channel, bad.address) || !endpoint_connected(&channel, good.address) {
        tokio::task::yield_now().await;
    }
    futures_util::future::join_all((0..60).map(|_| echo::call_empty(&channel, WRITE))).await;
    assert!(endpoint(good.address).connected && endpoint(good.address).breaker == "closed");
    let ejected = endpoint(bad.address);
    assert!(
        ejected
            .reason
            .as_ref()
            .is_some_and(|reason| reason.contains("failures in a row")),
        "{ejected:?}"
    );
    assert!(ejected.ejected_for_ms.is_some_and(|ms| ms <= 1_200));
    assert!(ejected.latency_ms > endpoint(good.address).latency_ms);
    while endpoint(dead).failure.is_none() {
        tokio::task::yield_now().await;
    }
    assert!(!endpoint(dead).connected);

    let snapshot = channel.snapshot();
    assert_eq!((snapshot.service.as_str(), snapshot.failing), ("echo", None));
    assert!(snapshot.retries_left > 0);
    let method = |name: &str| {
        snapshot
            .methods
            .iter()
            .find(|method| method.name.ends_with(name))
            .unwrap()
    };
    assert_eq!(
        (method("Write").timeout_ms, method("Write").max_attempts),
        (1_500, 1)
    );
    assert_eq!(method("Write").timeout_source, "methodConfig[0].timeout");
    assert_eq!(
        (
            method("Read").timeout_source.as_str(),
            method("Read").max_attempts
        ),
        ("contract", 3)
    );
}

#[tokio::test]
async fn a_new_service_config_applies_to_the_next_call_and_an_invalid_one_does_not() {
    let server = Server::start(|_| async { std::future::pending().await });
    let channel = echo::channel(&[server.address]);
    let config =
        |timeout: &str| format!(r#"{{"methodConfig": [{{"name": [{{}}], "timeout": "{timeout}"}}]}}"#);
    channel.reconfigure(&config("0.05s")).unwrap();
    assert!(matches!(
        channel.reconfigure(&config("5 minutes")),
        Err(Error::ServiceConfig { .. })
    ));
    let started = std::time::Instant::now();
    assert_eq!(
        echo::call_empty(&channel, WRITE).await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    // The method's own timeout is 5 s.
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn injected_faults_exercise_the_retries_and_need_permission() {
    let server = answering();
    let mut options = echo::options(&[server.address]);
    options.tuning.inject = vec![Fault {
        abort_percent: 100.0,
        ..Fault::default()
    }];
    let refused = Channel::connect(options.clone(), &echo::policies()).unwrap_err();
    assert!(refused.to_string().contains("allows no injected faults"));

    options.allow_faults = true;
    options.tuning.inject[0].abort_percent = 30.0;
    let channel = Channel::connect(options.clone(), &echo::policies()).unwrap();
    let mut failed = 0;
    for _ in 0..100 {
        failed += u32::from(echo::call_empty(&channel, READ).await.is_err());
    }
    assert!(
        failed < 15,
        "{failed} of 100 failed in spite of three attempts each"
    );

    options.tuning.inject[0].method = "mesh.test.v1.EchoService/Write".to_owned();
    options.tuning.inject[0].abort_percent = 100.0;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    assert_eq!(
        echo::call_empty(&channel, WRITE).await.unwrap_err().message(),
        "injected fault"
    );
    echo::call_empty(&channel, READ).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_gets_calls_only_while_it_reports_serving() {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("echo", tonic_health::ServingStatus::NotServing)
        .await;
    let server = Server::with_health(health, |_| async { Ok("first".to_owned()) });
    let other = Server::start(|_| async { Ok("second".to_owned()) });
    let mut options = echo::options(&[server.address, other.address]);
    options.tuning.service_config = Some(r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.to_owned());
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    for _ in 0..20 {
        assert_eq!(
            echo::call_empty(&channel, READ).await.unwrap(),
            "second",
            "the other implements no health service"
        );
    }
    reporter
        .set_service_status("echo", tonic_health::ServingStatus::Serving)
        .await;
    while echo::call_empty(&channel, READ).await.unwrap() != "first" {}
    reporter
        .set_service_status("echo", tonic_health::ServingStatus::NotServing)
        .await;
    while endpoint_connected(&channel, server.address) {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "second");
    }
}

fn endpoint_connected(channel: &Channel, address: std::net::SocketAddr) -> bool {
    let endpoints = channel.snapshot().endpoints;
    endpoints
        .iter()
        .any(|endpoint| endpoint.address == address.to_string() && endpoint.connected)
}

#[tokio::test]
async fn attempts_that_time_out_are_counted_as_failed() {
    let server = Server::start(|_| std::future::pending());
    let channel = echo::channel(&[server.address]);
    let caller = Context::new().with_timeout(Duration::from_millis(200));
    let calls = (0..100).map(|_| caller.clone().scope(echo::call_empty(&channel, READ)));
    for outcome in futures_util::future::join_all(calls).await {
        assert_eq!(outcome.unwrap_err().code(), Code::DeadlineExceeded);
    }
    let traffic = channel.snapshot().traffic;
    assert_eq!((traffic.success, traffic.attempt_success), (Some(0.0), Some(0.0)));
    assert!(traffic.attempts_per_s > 0.0);
}

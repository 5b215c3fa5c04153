//! Routes and canaries: calls go to groups of endpoints by their headers, and by weight.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::join, stream::FuturesUnordered};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tonic::{Code, Request, Status};
use tracing_subscriber::layer::SubscriberExt;
use weft_mesh::{Channel, ChannelOptions, Error, Origin, Policies};

use crate::{
    echo::{self, READ, Server, Text, WRITE},
    hedging::hedged,
};

/// Sends every call to `version=v2`, and elsewhere only if there is no such endpoint.
pub(crate) const ONLY_V2: &str = r#"{"loadBalancingConfig": [{"weft_routes": {"routes": [
    {"split": [{"labels": {"version": "v2"}, "weight": 1}]}]}}]}"#;

/// As `ONLY_V2`, and elsewhere never.
const STRICTLY_V2: &str = r#"{"loadBalancingConfig": [{"weft_routes": {"routes": [
    {"split": [{"labels": {"version": "v2"}, "weight": 1}], "fallbackPolicy": "NO_FALLBACK"}]}}]}"#;

fn answering(name: &'static str) -> Server {
    Server::start(move |_| async move { Ok(name.to_owned()) })
}

fn broken() -> Server {
    Server::start(|_| async { Err(Status::unavailable("broken")) })
}

/// Options with a version for each server. Calls that wait for a slow machine do not make an endpoint look
/// dead.
fn options(servers: &[(SocketAddr, &str)], config: &str) -> ChannelOptions {
    let uris: Vec<_> = servers
        .iter()
        .map(|(server, version)| format!("http://{server};version={version}"))
        .collect();
    let mut options = ChannelOptions::new(format!("static:{}", uris.join(",")), "echo", "test");
    options.tuning.silence_ms = 0;
    options.tuning.service_config = Some(config.to_owned());
    options
}

/// A channel that is connected to all of these servers.
async fn connected(servers: &[(SocketAddr, &str)], config: &str) -> Channel {
    connect(options(servers, config), &echo::policies()).await
}

async fn connect(options: ChannelOptions, policies: &Policies) -> Channel {
    let channel = Channel::connect(options, policies).unwrap();
    let all_connected = || {
        let endpoints = channel.snapshot().endpoints;
        !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.connected)
    };
    while !all_connected() {
        tokio::task::yield_now().await;
    }
    channel
}

async fn call_with(channel: &Channel, header: &'static str, value: &str) -> Result<String, Status> {
    let mut request = Request::new(Text::default());
    request.metadata_mut().insert(header, value.parse().unwrap());
    let response = echo::call(channel, READ, request).await?;
    Ok(response.into_inner().text)
}

#[tokio::test]
async fn a_header_decides_which_version_answers() {
    let (old, new) = (answering("v1"), answering("v2"));
    let config = r#"{"loadBalancingConfig": [{"weft_routes": {"routes": [
        {"match": {"service": "mesh.test.v1.EchoService", "method": "Read",
                   "headers": [{"name": "x-canary", "exact": "true"}]},
         "split": [{"labels": {"version": "v2"}, "weight": 1}], "fallbackPolicy": "NO_FALLBACK"},
        {"match": {"service": "mesh.test.v1.EchoService", "method": "Read"},
         "split": [{"labels": {"version": "v1"}, "weight": 1}], "fallbackPolicy": "NO_FALLBACK"}]}}, {"round_robin": {}}]}"#;
    let channel = connected(&[(old.address, "v1"), (new.address, "v2")], config).await;
    for _ in 0..50 {
        assert_eq!(call_with(&channel, "x-canary", "true").await.unwrap(), "v2");
        assert_eq!(call_with(&channel, "x-canary", "false").await.unwrap(), "v1");
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "v1");
    }
    // No route matches this method: both versions get its calls.
    while echo::call_empty(&channel, WRITE).await.unwrap() != "v2" {}
    while echo::call_empty(&channel, WRITE).await.unwrap() != "v1" {}
    let labels: Vec<_> = channel
        .snapshot()
        .endpoints
        .into_iter()
        .map(|endpoint| endpoint.labels["version"].clone())
        .collect();
    assert!(labels.contains(&"v1".to_owned()) && labels.contains(&"v2".to_owned()));
}

#[tokio::test]
async fn weights_change_while_calls_are_made_and_sessions_stay_on_their_side() {
    let config = |new: i32| {
        let old = 100 - new;
        format!(
            r#"{{"loadBalancingConfig": [{{"weft_routes": {{"routes": [{{"sticky": {{"header": "x-session"}}, "split": [
                {{"labels": {{"version": "v2"}}, "weight": {new}}}, {{"labels": {{"version": "v1"}}, "weight": {old}}}
            ]}}]}}}}]}}"#
        )
    };
    let (old, new) = (answering("v1"), answering("v2"));
    let channel = connected(&[(old.address, "v1"), (new.address, "v2")], &config(5)).await;
    let sessions: Vec<_> = (0..400).map(|number| format!("session-{number}")).collect();
    let canaries = async || {
        let mut canaries = Vec::new();
        for session in &sessions {
            canaries.push(call_with(&channel, "x-session", session).await.unwrap() == "v2");
        }
        canaries
    };
    let share = |canaries: &[bool]| canaries.iter().filter(|canary| **canary).count();
    let before = canaries().await;
    // Calls without a session, which are split at random, go on while the weights change.
    let calls = async {
        let mut running: FuturesUnordered<_> = (0..4).map(|_| echo::call_empty(&channel, WRITE)).collect();
        for _ in 0..1_000 {
            running.next().await.unwrap().unwrap();
            running.push(echo::call_empty(&channel, WRITE));
        }
    };
    let changes = async {
        for new in [5, 20, 35, 50] {
            channel.reconfigure(&config(new)).unwrap();
            for _ in 0..10 {
                call_with(&channel, "x-session", "another").await.unwrap();
            }
        }
    };
    join(calls, changes).await;
    let after = canaries().await;
    // The sessions are fixed, and with them the counts: about 20 and 200.
    assert!((8..40).contains(&share(&before)), "{}", share(&before));
    assert!((150..250).contains(&share(&after)), "{}", share(&after));
    assert!(before.iter().zip(&after).all(|(before, after)| *after || !before));

    let refused = channel.reconfigure(&config(101)).unwrap_err();
    assert!(matches!(refused, Error::ServiceConfig { .. }), "{refused}");
    assert_eq!(canaries().await, after, "the current config stays in force");
}

#[tokio::test]
async fn a_group_without_an_endpoint_falls_back_to_the_others() {
    let (old, new) = (answering("v1"), answering("v2"));
    let channel = connected(&[(old.address, "v1"), (new.address, "v2")], ONLY_V2).await;
    for _ in 0..20 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "v2");
    }
    drop(new);
    for _ in 0..20 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "v1");
    }
    // The same in a split, although without the fallback to any endpoint.
    let split = r#"{"loadBalancingConfig": [{"weft_routes": {"routes": [{"fallbackPolicy": "NO_FALLBACK", "split": [
        {"labels": {"version": "v2"}, "weight": 99}, {"labels": {"version": "v1"}, "weight": 1}]}]}}]}"#;
    channel.reconfigure(split).unwrap();
    for _ in 0..20 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "v1");
    }
}

#[tokio::test]
async fn without_a_fallback_the_call_fails_with_the_labels_that_it_needs() {
    let old = answering("v1");
    let gone = echo::unused_address();
    for servers in [&[(old.address, "v1")][..], &[(old.address, "v1"), (gone, "v2")]] {
        let channel = Channel::connect(options(servers, STRICTLY_V2), &echo::policies()).unwrap();
        let status = echo::call_empty(&channel, WRITE).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            status
                .message()
                .contains("no endpoint of echo with version=v2 is reachable"),
            "{status}"
        );
        assert_eq!(Origin::from_status(&status), Origin::NotSent);
    }
    assert_eq!(old.calls(), 0);
}

#[tokio::test]
async fn a_retry_stays_in_the_group_and_leaves_it_only_if_the_group_has_no_other_endpoint() {
    let (old, bad, good) = (answering("v1"), broken(), answering("v2"));
    let servers = [(old.address, "v1"), (bad.address, "v2"), (good.address, "v2")];
    let channel = connected(&servers, ONLY_V2).await;
    while bad.calls() == 0 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "v2");
    }
    assert_eq!(old.calls(), 0, "the other endpoint of the group was tried");

    let bad = broken();
    let servers = [(old.address, "v1"), (bad.address, "v2")];
    let channel = connected(&servers, ONLY_V2).await;
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "v1");
    assert_eq!((bad.calls(), old.calls()), (1, 1));

    let bad = broken();
    let servers = [(old.address, "v1"), (bad.address, "v2")];
    let channel = connected(&servers, STRICTLY_V2).await;
    let status = echo::call_empty(&channel, READ).await.unwrap_err();
    assert_eq!(status.message(), "broken");
    assert_eq!(
        (bad.calls(), old.calls()),
        (3, 1),
        "all attempts stay in the group"
    );
}

#[tokio::test]
async fn a_hedge_stays_in_the_group() {
    let slow_calls = AtomicUsize::new(0);
    // Every other call to the group is never answered.
    let silent = move || {
        let silent = slow_calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        async move {
            if silent {
                std::future::pending::<()>().await;
            }
            Ok("v2".to_owned())
        }
    };
    let old = answering("v1");
    let (first, second) = (Server::start(move |_| silent()), answering("v2"));
    let servers = [(old.address, "v1"), (first.address, "v2"), (second.address, "v2")];
    let options = options(&servers, ONLY_V2);
    let channel = connect(options, &hedged(Duration::from_millis(10))).await;
    while first.calls() < 3 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "v2");
    }
    assert_eq!(old.calls(), 0);
}

#[tokio::test]
async fn several_names_of_a_dns_target_have_their_own_labels() {
    let (old, new) = (answering("v1"), answering("v2"));
    let mut options = options(&[], ONLY_V2);
    options.target = format!(
        "dns:http://{};version=v1,http://{};version=v2",
        old.address, new.address
    );
    let channel = connect(options, &echo::policies()).await;
    while channel.snapshot().endpoints.len() < 2
        || channel.snapshot().endpoints.iter().any(|it| !it.connected)
    {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "v2");
    }
}

#[tokio::test]
async fn a_route_that_names_an_unknown_method_is_refused_with_its_path() {
    let old = answering("v1");
    let config = r#"{"loadBalancingConfig": [{"weft_routes": {"routes": [
        {"match": {"service": "mesh.test.v1.EchoService", "method": "Reed"},
         "split": [{"labels": {"version": "v2"}, "weight": 1}]}]}}]}"#;
    let error = Channel::connect(options(&[(old.address, "v1")], config), &echo::policies()).unwrap_err();
    let path = "loadBalancingConfig[0].weft_routes.routes[0].match.method";
    assert!(error.to_string().contains(path), "{error}");
}

#[tokio::test]
async fn the_span_of_an_attempt_names_the_group_that_it_was_sent_to() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let (old, new) = (answering("v1"), answering("v2"));
    let channel = connected(&[(old.address, "v1"), (new.address, "v2")], ONLY_V2).await;
    // Another test may have registered the span's call site before this one set its subscriber.
    tracing::callsite::rebuild_interest_cache();
    let groups = |exporter: &InMemorySpanExporter| -> Vec<String> {
        let spans = exporter.get_finished_spans().unwrap();
        let attempts = spans.iter().filter(|span| span.name.starts_with("Attempt."));
        let attributes = attempts.flat_map(|span| span.attributes.iter());
        let groups = attributes.filter(|attribute| attribute.key.as_str() == "mesh.route.group");
        groups.map(|group| group.value.as_str().into_owned()).collect()
    };
    echo::call_empty(&channel, READ).await.unwrap();
    assert_eq!(groups(&exporter), ["version=v2"]);
    channel.reconfigure("{}").unwrap();
    echo::call_empty(&channel, READ).await.unwrap();
    assert_eq!(
        groups(&exporter),
        ["version=v2"],
        "a call without a route has no group"
    );
}

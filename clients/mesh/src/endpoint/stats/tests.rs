use std::time::Duration;

use http::HeaderMap;
use tonic::Code;

use super::*;
use crate::{endpoint::breaker::State, method::Method};

fn stats() -> Arc<Stats> {
    let ejections = Arc::new(Ejections::default());
    ejections.set_connected(2);
    let address = Address {
        scheme: http::uri::Scheme::HTTP,
        authority: "a:1".parse().unwrap(),
        host: Arc::from("a"),
        port: Some(1),
        zone: None,
        labels: Default::default(),
    };
    let channel_info = Arc::new(ChannelInfo {
        user_agent: http::HeaderValue::from_static("test"),
        ping_interval: Duration::from_millis(1),
        metrics: Arc::new(crate::telemetry::Metrics::new("test", "static:test")),
    });
    Arc::new(Stats::new(
        1,
        address,
        channel_info,
        Arc::new(ConcurrencyLimit::new(2, 1)),
        ejections,
    ))
}

fn within(time: Duration) -> Blame {
    Blame::new(Some(Instant::now() + time), None)
}

#[tokio::test(start_paused = true)]
async fn timeouts_count_only_after_half_of_the_methods_own_timeout() {
    let stats = stats();
    let declared = Some(Duration::from_secs(2));
    for (given, code, ejects) in [
        (Duration::from_millis(100), None, false),
        (Duration::from_millis(100), Some(Code::DeadlineExceeded), false),
        (Duration::from_secs(1), None, true),
    ] {
        for _ in 0..7 {
            let blame = Blame::new(Some(Instant::now() + given), declared);
            let mut in_flight = stats.begin(blame, None).unwrap();
            tokio::time::advance(given).await;
            if let Some(code) = code {
                in_flight.finish(Verdict::from_code(code, &HeaderMap::new()));
            }
        }
        let ejected = matches!(stats.lock().breaker.state(), State::Ejected { .. });
        assert_eq!(ejected, ejects, "{given:?} {code:?}");
    }
    assert!(
        stats.lock().load.estimate(Instant::now()) > 0.09,
        "the wait is recorded"
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_than_the_cap_are_in_flight() {
    let stats = stats();
    let first = stats.begin(Blame::default(), None).unwrap();
    let _second = stats.begin(Blame::default(), None).unwrap();
    assert!(stats.begin(Blame::default(), None).is_none());
    drop(first);
    assert!(stats.begin(Blame::default(), None).is_some());
}

#[tokio::test(start_paused = true)]
async fn calls_that_time_out_eject_the_endpoint_and_dropped_calls_do_not() {
    let stats = stats();
    for _ in 0..20 {
        drop(stats.begin(within(Duration::from_secs(1)), None));
    }
    assert_eq!(stats.lock().breaker.state(), &State::Closed);
    for _ in 0..7 {
        drop(stats.begin(within(Duration::ZERO), None));
    }
    assert!(matches!(stats.lock().breaker.state(), State::Ejected { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_call_abandoned_early_still_records_its_wait_as_latency() {
    let stats = stats();
    let in_flight = stats.begin(Blame::default(), None);
    tokio::time::advance(Duration::from_secs(2)).await;
    drop(in_flight);
    assert_eq!(stats.lock().load.estimate(Instant::now()), 2.0);
}

fn begin(stats: &Arc<Stats>, streams: bool, given: Duration) -> InFlight {
    let policy = crate::MethodPolicy {
        server_streaming: streams,
        ..crate::MethodPolicy::new(given)
    };
    let blame = Blame::new(Some(Instant::now() + given), Some(given));
    let method = Method::new("test.Service/Method", Some(policy));
    stats.begin(blame, None).unwrap().for_method(&method)
}

#[tokio::test(start_paused = true)]
async fn headers_alone_are_a_success_only_for_a_streamed_response() {
    for (streams, ejected) in [(false, true), (true, false)] {
        let stats = stats();
        for _ in 0..7 {
            let mut in_flight = begin(&stats, streams, Duration::from_secs(1));
            in_flight.record_headers();
            tokio::time::advance(Duration::from_secs(1)).await;
            drop(in_flight);
        }
        let state = stats.lock().breaker.state().clone();
        assert_eq!(matches!(state, State::Ejected { .. }), ejected, "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_latency_of_a_single_message_is_measured_at_its_end() {
    let stats = stats();
    let mut in_flight = begin(&stats, false, Duration::from_secs(9));
    in_flight.record_headers();
    tokio::time::advance(Duration::from_secs(2)).await;
    in_flight.finish(Verdict::Good);
    assert_eq!(stats.lock().load.estimate(Instant::now()), 2.0);
}

#[tokio::test(start_paused = true)]
async fn the_servers_limit_of_streams_bounds_the_calls_in_flight() {
    let stats = stats();
    stats.set_max_streams(1);
    let _first = stats.begin(Blame::default(), None).unwrap();
    assert!(stats.begin(Blame::default(), None).is_none());
    stats.set_max_streams(9);
    let _second = stats.begin(Blame::default(), None).unwrap();
    assert!(stats.begin(Blame::default(), None).is_none());
}

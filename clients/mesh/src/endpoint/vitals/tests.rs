use std::time::Duration;

use http::HeaderMap;
use tonic::Code;

use super::*;
use crate::{call::Method, endpoint::breaker::State};

fn vitals() -> Arc<Vitals> {
    let ejections = Arc::new(Ejections::default());
    ejections.set_connected(2);
    let address = Address {
        scheme: http::uri::Scheme::HTTP,
        authority: "a:1".parse().unwrap(),
        host: Arc::from("a"),
        port: 1,
        zone: None,
    };
    let caller = Arc::new(Caller {
        user_agent: http::HeaderValue::from_static("test"),
        ping_interval: Duration::from_millis(1),
        metrics: Arc::new(crate::telemetry::Metrics::new("test", "static:test")),
    });
    Arc::new(Vitals::new(
        1,
        address,
        caller,
        Arc::new(Room::new(2, 1)),
        ejections,
    ))
}

fn within(time: Duration) -> Allowance {
    Allowance::new(Some(Instant::now() + time), None)
}

#[tokio::test(start_paused = true)]
async fn callers_in_a_hurry_eject_nobody_and_patient_ones_do() {
    let vitals = vitals();
    let declared = Some(Duration::from_secs(2));
    for (given, code, ejects) in [
        (Duration::from_millis(100), None, false),
        (Duration::from_millis(100), Some(Code::DeadlineExceeded), false),
        (Duration::from_secs(1), None, true),
    ] {
        for _ in 0..7 {
            let allowance = Allowance::new(Some(Instant::now() + given), declared);
            let mut flight = vitals.take_off(allowance, None).unwrap();
            tokio::time::advance(given).await;
            if let Some(code) = code {
                flight.settle(Verdict::of(code, &HeaderMap::new()));
            }
        }
        let ejected = matches!(vitals.record().breaker.state(), State::Ejected { .. });
        assert_eq!(ejected, ejects, "{given:?} {code:?}");
    }
    assert!(
        vitals.record().load.estimate(Instant::now()) > 0.09,
        "the wait is known"
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_than_the_cap_are_in_flight() {
    let vitals = vitals();
    let first = vitals.take_off(Allowance::default(), None).unwrap();
    let _second = vitals.take_off(Allowance::default(), None).unwrap();
    assert!(vitals.take_off(Allowance::default(), None).is_none());
    drop(first);
    assert!(vitals.take_off(Allowance::default(), None).is_some());
}

#[tokio::test(start_paused = true)]
async fn calls_that_run_out_of_time_eject_and_calls_that_are_dropped_do_not() {
    let vitals = vitals();
    for _ in 0..20 {
        drop(vitals.take_off(within(Duration::from_secs(1)), None));
    }
    assert_eq!(vitals.record().breaker.state(), &State::Closed);
    for _ in 0..7 {
        drop(vitals.take_off(within(Duration::ZERO), None));
    }
    assert!(matches!(vitals.record().breaker.state(), State::Ejected { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_call_given_up_early_still_tells_that_the_endpoint_is_slow() {
    let vitals = vitals();
    let flight = vitals.take_off(Allowance::default(), None);
    tokio::time::advance(Duration::from_secs(2)).await;
    drop(flight);
    assert_eq!(vitals.record().load.estimate(Instant::now()), 2.0);
}

fn flight(vitals: &Arc<Vitals>, streams: bool, given: Duration) -> Flight {
    let policy = crate::MethodPolicy {
        server_streaming: streams,
        ..crate::MethodPolicy::new(given)
    };
    let allowance = Allowance::new(Some(Instant::now() + given), Some(given));
    let method = Method::new("test.Service/Method", Some(policy));
    vitals.take_off(allowance, None).unwrap().of(&method)
}

#[tokio::test(start_paused = true)]
async fn headers_alone_are_no_answer_unless_the_answer_is_a_stream() {
    for (streams, ejected) in [(false, true), (true, false)] {
        let vitals = vitals();
        for _ in 0..7 {
            let mut flight = flight(&vitals, streams, Duration::from_secs(1));
            flight.answered();
            tokio::time::advance(Duration::from_secs(1)).await;
            drop(flight);
        }
        let state = vitals.record().breaker.state().clone();
        assert_eq!(matches!(state, State::Ejected { .. }), ejected, "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_latency_of_one_message_is_that_of_its_end() {
    let vitals = vitals();
    let mut flight = flight(&vitals, false, Duration::from_secs(9));
    flight.answered();
    tokio::time::advance(Duration::from_secs(2)).await;
    flight.settle(Verdict::Good);
    assert_eq!(vitals.record().load.estimate(Instant::now()), 2.0);
}

#[tokio::test(start_paused = true)]
async fn the_server_s_limit_of_streams_bounds_the_calls_in_flight() {
    let vitals = vitals();
    vitals.set_streams(1);
    let _first = vitals.take_off(Allowance::default(), None).unwrap();
    assert!(vitals.take_off(Allowance::default(), None).is_none());
    vitals.set_streams(9);
    let _second = vitals.take_off(Allowance::default(), None).unwrap();
    assert!(vitals.take_off(Allowance::default(), None).is_none());
}

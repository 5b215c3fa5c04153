use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, body::Body};
use tower::{Service, service_fn};

use super::Hedge;
use crate::{
    Context, MethodPolicy,
    call::{Attempt, AttemptOutcome, Call, Outcome},
    failure::{Failure, Reached},
    method::Method,
    policy::{Hedging, Idempotency},
    retry::budget::{Budget, Budgets, Throttling},
    telemetry::Metrics,
};

const MS: Duration = Duration::from_millis(1);

/// Sends one hedged call; attempt `n` ends with the outcome of `script[n]` after its time. Returns when each was
/// sent.
async fn run(script: Vec<(Duration, AttemptOutcome)>, budget: Arc<Budget>) -> (Outcome, Vec<Duration>) {
    let (sent, started) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let script = Arc::new(Mutex::new(script.into_iter()));
    let attempts = {
        let sent = Arc::clone(&sent);
        service_fn(move |_: Attempt| {
            sent.lock().unwrap().push(started.elapsed());
            let (time, outcome) = script.lock().unwrap().next().expect("an attempt too many");
            async move {
                sleep(time).await;
                outcome
            }
        })
    };
    let mut hedge = Hedge {
        attempts,
        retry: service_fn(|_: Call| -> BoxFuture<'static, Outcome> { unreachable!("the method is hedged") }),
        budgets: Arc::new(Budgets::new(|| Arc::clone(&budget))),
        metrics: Arc::new(Metrics::new("test", "static:test")),
        replay_limit: 1024,
    };
    let policy = MethodPolicy {
        idempotency: Idempotency::NoSideEffects,
        hedging: Some(Hedging {
            max_attempts: 3,
            delay: 20 * MS,
            non_fatal_codes: Vec::new(),
        }),
        ..MethodPolicy::new(Duration::from_secs(1))
    };
    let call = Call {
        method: Arc::new(Method::new("test.Service/Method", Some(policy))),
        context: Context::new(),
        deadline: Some(started + 500 * MS),
        destination: None,
        request: Request::new(Body::empty()),
    };
    let outcome = hedge.call(call).await;
    let sent = sent.lock().unwrap().clone();
    (outcome, sent)
}

fn good(name: &'static str) -> AttemptOutcome {
    Ok(Response::builder()
        .header("name", name)
        .body(Body::empty())
        .unwrap())
}

fn failed(code: Code) -> AttemptOutcome {
    Ok(Status::new(code, "no").into_http())
}

fn plenty() -> Arc<Budget> {
    Arc::new(Budget::new(Throttling::default()))
}

#[tokio::test(start_paused = true)]
async fn a_fast_answer_is_not_hedged() {
    let (outcome, sent) = run(vec![(10 * MS, good("first"))], plenty()).await;
    assert_eq!(outcome.unwrap().headers()["name"], "first");
    assert_eq!(sent, [Duration::ZERO]);
}

#[tokio::test(start_paused = true)]
async fn the_first_successful_response_ends_the_call() {
    let script = vec![(300 * MS, good("first")), (15 * MS, good("second"))];
    let started = Instant::now();
    let (outcome, sent) = run(script, plenty()).await;
    assert_eq!(outcome.unwrap().headers()["name"], "second");
    assert_eq!(sent, [Duration::ZERO, 20 * MS]);
    assert_eq!(started.elapsed(), 35 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_failure_starts_the_next_attempt_at_once_and_a_fatal_one_ends_the_call() {
    let script = vec![(5 * MS, failed(Code::Unavailable)), (5 * MS, good("second"))];
    let (outcome, sent) = run(script, plenty()).await;
    assert_eq!(outcome.unwrap().headers()["name"], "second");
    assert_eq!(sent, [Duration::ZERO, 5 * MS]);

    let (outcome, sent) = run(vec![(5 * MS, failed(Code::NotFound))], plenty()).await;
    assert_eq!(outcome.unwrap().headers()["grpc-status"], "5");
    assert_eq!(sent.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_budget_there_is_one_attempt_and_its_outcome_is_returned() {
    for outcome in [good("first"), failed(Code::Unavailable)] {
        let expected = outcome.as_ref().unwrap().headers().clone();
        let spent = plenty();
        while spent.withdraw() {}
        let (outcome, sent) = run(vec![(100 * MS, outcome)], spent).await;
        assert_eq!(outcome.unwrap().headers(), &expected);
        assert_eq!(sent.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_and_the_last_failure_is_returned() {
    let script = (0..3).map(|_| (MS, failed(Code::Unavailable))).collect();
    let (outcome, sent) = run(script, plenty()).await;
    assert_eq!(outcome.unwrap().headers()["grpc-status"], "14");
    assert_eq!(sent.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_unprocessed_request_is_sent_again_once_without_budget() {
    let unsent = || -> AttemptOutcome {
        Err(Failure {
            status: Status::unavailable("lost"),
            reached: Reached::Never,
            request: None,
        })
    };
    let spent = plenty();
    while spent.withdraw() {}
    let (outcome, sent) = run(vec![(MS, unsent()), (MS, good("second"))], Arc::clone(&spent)).await;
    assert_eq!(outcome.unwrap().headers()["name"], "second");
    assert_eq!(sent, [Duration::ZERO, MS]);
    let (outcome, sent) = run(vec![(MS, unsent()), (MS, unsent())], spent).await;
    assert_eq!(outcome.unwrap_err().code(), Code::Unavailable);
    assert_eq!(sent.len(), 2, "once, and without a budget no more");
}

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Service, service_fn};

use super::{
    Retry,
    budget::{Budget, Budgets, Throttling},
};
use crate::{
    Context, MethodPolicy,
    call::{Attempt, AttemptOutcome, Call, Outcome},
    failure::{Failure, Reached},
    method::Method,
    policy::{self, Idempotency},
    telemetry::Metrics,
};

/// When each attempt was sent, and its number of previous attempts.
type Log = Arc<Mutex<Vec<(Duration, u32)>>>;

fn policy() -> MethodPolicy {
    let retry = policy::Retry {
        max_attempts: 4,
        initial_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(1),
        backoff_multiplier: 2.0,
        retryable_codes: vec![Code::Unavailable, Code::Aborted],
        attempt_timeout: None,
    };
    let timeout = Duration::from_secs(10);
    MethodPolicy {
        retry: Some(retry),
        idempotency: Idempotency::Idempotent,
        ..MethodPolicy::new(timeout)
    }
}

/// Sends one call whose attempts end with `outcomes`, in order.
async fn run(policy: MethodPolicy, outcomes: Vec<AttemptOutcome>) -> (Outcome, Vec<(Duration, u32)>) {
    let (log, started) = (Log::default(), Instant::now());
    let outcomes = Arc::new(Mutex::new(outcomes.into_iter()));
    let attempts = {
        let log = Arc::clone(&log);
        service_fn(move |attempt: Attempt| {
            log.lock().unwrap().push((started.elapsed(), attempt.previous));
            let outcome = outcomes.lock().unwrap().next().expect("an attempt too many");
            async move { outcome }
        })
    };
    let budgets = Arc::new(Budgets::new(|| Arc::new(Budget::new(Throttling::default()))));
    let mut retry = Retry::new(
        attempts,
        budgets,
        Arc::new(Metrics::new("test", "static:test")),
        1024,
    );
    let outcome = retry
        .call(Call {
            method: Arc::new(Method::new("test.Service/Method", Some(policy))),
            context: Context::new(),
            deadline: Some(started + Duration::from_secs(2)),
            destination: None,
            request: Request::new(Body::empty()),
        })
        .await;
    let log = log.lock().unwrap().clone();
    (outcome, log)
}

fn refused(code: Code) -> AttemptOutcome {
    Ok(Status::new(code, "no").into_http())
}

fn lost(reached: Reached) -> AttemptOutcome {
    Err(Failure {
        status: Status::unavailable("lost"),
        reached,
        request: None,
    })
}

fn answered() -> AttemptOutcome {
    Ok(Response::new(Body::empty()))
}

#[tokio::test(start_paused = true)]
async fn delays_double_and_each_attempt_carries_the_number_of_previous_ones() {
    let outcomes = vec![
        refused(Code::Unavailable),
        lost(Reached::Perhaps),
        refused(Code::Aborted),
        answered(),
    ];
    let (outcome, log) = run(policy(), outcomes).await;
    assert!(outcome.is_ok());
    assert_eq!(
        log.iter().map(|(_, previous)| *previous).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    for (attempts, middle) in log.windows(2).zip([100, 200, 400]) {
        let wait = (attempts[1].0 - attempts[0].0).as_millis();
        assert!(
            (middle * 8 / 10 - 1..=middle * 12 / 10 + 1).contains(&wait),
            "{wait} ms where {middle} were due"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_response_is_returned_when_the_attempts_are_used_up() {
    let (outcome, log) = run(policy(), (0..4).map(|_| refused(Code::Unavailable)).collect()).await;
    assert_eq!(outcome.unwrap().headers()["grpc-status"], "14");
    assert_eq!(log.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_unprocessed_request_is_sent_again_once_at_once_and_uncounted() {
    let unsafe_method = MethodPolicy::new(Duration::from_secs(1));
    let (outcome, log) = run(unsafe_method.clone(), vec![lost(Reached::Never), answered()]).await;
    assert!(outcome.is_ok());
    assert_eq!(log, [(Duration::ZERO, 0), (Duration::ZERO, 0)]);

    let (outcome, log) = run(unsafe_method, vec![lost(Reached::Never), lost(Reached::Never)]).await;
    assert_eq!(outcome.unwrap_err().code(), Code::Unavailable);
    assert_eq!(log.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_been_processed_is_not_sent_again_unless_declared_safe() {
    let (outcome, log) = run(
        MethodPolicy::new(Duration::from_secs(1)),
        vec![lost(Reached::Perhaps)],
    )
    .await;
    assert!(outcome.is_err());
    assert_eq!(log.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_id_makes_a_method_safe() {
    let keyed = MethodPolicy {
        idempotency: Idempotency::Unknown,
        has_request_id: true,
        ..policy()
    };
    let (outcome, _) = run(keyed, vec![lost(Reached::Perhaps), answered()]).await;
    assert!(outcome.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_start_after_the_deadline_is_not_waited_for() {
    let slow = policy::Retry {
        initial_backoff: Duration::from_secs(3),
        max_backoff: Duration::from_secs(3),
        ..policy().retry.unwrap()
    };
    let started = Instant::now();
    let (outcome, log) = run(
        MethodPolicy {
            retry: Some(slow),
            ..policy()
        },
        vec![refused(Code::Aborted)],
    )
    .await;
    assert_eq!(outcome.unwrap().headers()["grpc-status"], "10");
    assert_eq!((log.len(), started.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_pushback_restarts_the_backoff() {
    let pushed_back = || {
        let mut status = Status::new(Code::Unavailable, "no");
        let wait = tonic::metadata::MetadataValue::from_static("300");
        status.metadata_mut().insert("grpc-retry-pushback-ms", wait);
        Ok(status.into_http())
    };
    let outcomes = vec![
        refused(Code::Unavailable),
        pushed_back(),
        refused(Code::Unavailable),
        answered(),
    ];
    let (outcome, log) = run(policy(), outcomes).await;
    assert!(outcome.is_ok());
    let waits: Vec<_> = log
        .windows(2)
        .map(|pair| (pair[1].0 - pair[0].0).as_millis())
        .collect();
    assert!((79..=121).contains(&waits[0]), "{waits:?}");
    assert!((300..=301).contains(&waits[1]), "{waits:?}");
    assert!(
        (79..=121).contains(&waits[2]),
        "the initial backoff again: {waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_exceeds_its_own_timeout_is_retried() {
    let retry = policy::Retry {
        attempt_timeout: Some(Duration::from_millis(200)),
        ..policy().retry.unwrap()
    };
    let policy = MethodPolicy {
        retry: Some(retry),
        ..policy()
    };
    let sent = Arc::new(Mutex::new(0));
    let attempts = {
        let sent = Arc::clone(&sent);
        service_fn(move |_: Attempt| {
            *sent.lock().unwrap() += 1;
            let first = *sent.lock().unwrap() == 1;
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                answered()
            }
        })
    };
    let budgets = Arc::new(Budgets::new(|| Arc::new(Budget::new(Throttling::default()))));
    let metrics = Arc::new(Metrics::new("test", "static:test"));
    let (mut retry, started) = (Retry::new(attempts, budgets, metrics, 1024), Instant::now());
    let call = Call {
        method: Arc::new(Method::new("test.Service/Method", Some(policy))),
        context: Context::new(),
        deadline: Some(started + Duration::from_secs(2)),
        destination: None,
        request: Request::new(Body::empty()),
    };
    assert!(retry.call(call).await.is_ok());
    assert_eq!(*sent.lock().unwrap(), 2);
    assert!(
        started.elapsed() < Duration::from_millis(330),
        "{:?}",
        started.elapsed()
    );
}

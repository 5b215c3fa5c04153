//! Only methods that the contract declares safe are retried, within bounds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tonic::{Code, Status};
use tonic_types::StatusExt;
use weft_mesh::{Context, context::PREVIOUS_ATTEMPTS};

use crate::echo::{self, READ, Server, Text, WRITE};

/// Fails the first `failures` calls and then answers with the number of previous attempts.
fn failing(failures: usize, status: impl Fn() -> Status + Send + Sync + 'static) -> Server {
    let seen = AtomicUsize::new(0);
    Server::start(move |headers| {
        let failed = seen.fetch_add(1, Ordering::SeqCst) < failures;
        let answer = if failed { Err(status()) } else { Ok(()) };
        async move {
            answer?;
            Ok(headers
                .get(PREVIOUS_ATTEMPTS)
                .map_or("0", |value| value.to_str().unwrap())
                .to_owned())
        }
    })
}

#[tokio::test]
async fn a_safe_method_is_retried_up_to_its_attempts_and_each_carries_its_number() {
    let server = failing(2, || Status::unavailable("not now"));
    let channel = echo::channel(&[server.address]);
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "2");
    assert_eq!(server.calls(), 3);

    let server = failing(3, || Status::unavailable("not now"));
    let channel = echo::channel(&[server.address]);
    assert_eq!(
        echo::call_empty(&channel, READ).await.unwrap_err().message(),
        "not now"
    );
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn a_method_that_is_not_declared_safe_is_sent_once() {
    let server = failing(1, || Status::unavailable("not now"));
    let channel = echo::channel(&[server.address]);
    assert_eq!(
        echo::call_empty(&channel, WRITE).await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_code_that_is_not_declared_retryable_is_final() {
    let retry_info = tonic_types::ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
    for code in [Code::Aborted, Code::Internal, Code::ResourceExhausted] {
        let details = retry_info.clone();
        let server = failing(1, move || Status::with_error_details(code, "no", details.clone()));
        let channel = echo::channel(&[server.address]);
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap_err().code(), code);
        assert_eq!(server.calls(), 1);
    }
}

#[tokio::test]
async fn work_that_is_itself_a_retry_is_not_retried_further_down() {
    let server = failing(1, || Status::unavailable("not now"));
    let channel = echo::channel(&[server.address]);
    let retried = Context::new().with_serving_retry(true);
    assert!(retried.scope(echo::call_empty(&channel, READ)).await.is_err());
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_pushback_beyond_the_deadline_is_not_waited_for() {
    let server = failing(1, || {
        let mut status = Status::unavailable("not now");
        status.metadata_mut().insert("grpc-retry-pushback-ms", 500.into());
        status
    });
    let channel = echo::channel(&[server.address]);
    let caller = Context::new().with_timeout(Duration::from_millis(300));
    let status = echo::call(&channel, READ, caller.request(Text::default()))
        .await
        .unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "the callee's own status, not the client's"
    );
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn pushback_delays_a_retry_and_a_negative_one_prevents_it() {
    for (pushback, calls) in [(80, 2), (-1, 1)] {
        let server = failing(1, move || {
            let mut status = Status::unavailable("not now");
            status
                .metadata_mut()
                .insert("grpc-retry-pushback-ms", pushback.into());
            status
        });
        let channel = echo::channel(&[server.address]);
        let started = Instant::now();
        assert_eq!(echo::call_empty(&channel, READ).await.is_ok(), calls == 2);
        assert_eq!(server.calls(), calls);
        assert!(calls == 1 || started.elapsed() >= Duration::from_millis(80));
    }
}

#[tokio::test]
async fn retries_stop_when_the_budget_is_spent() {
    let server = failing(usize::MAX, || Status::unavailable("down"));
    let channel = echo::channel(&[server.address]);
    let calls: usize = 300;
    for _ in 0..calls {
        assert!(echo::call_empty(&channel, READ).await.is_err());
    }
    assert!(
        server.calls() < calls * 12 / 10,
        "{} attempts for {calls} calls",
        server.calls()
    );
}

#[tokio::test]
async fn another_endpoint_is_tried_before_the_same_one_again() {
    let bad = failing(usize::MAX, || Status::unavailable("broken"));
    let good = Server::start(|_| async { Ok("good".to_owned()) });
    let channel = echo::channel(&[bad.address, good.address]);
    let channel = Arc::new(channel);
    for _ in 0..50 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "good");
    }
    assert!(
        bad.calls() <= 50,
        "a call never goes to the broken endpoint twice"
    );
}

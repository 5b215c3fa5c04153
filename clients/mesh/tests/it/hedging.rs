//! Hedging cuts the tail latency of safe methods at a bounded cost.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tonic::Status;
use weft_mesh::{
    Channel, MethodPolicy, Policies,
    policy::{Hedging, Idempotency},
};

use crate::echo::{self, READ, Server};

const DELAY: Duration = Duration::from_millis(20);

pub(crate) fn hedged(delay: Duration) -> Policies {
    let hedging = Hedging {
        max_attempts: 2,
        delay,
        non_fatal_codes: Vec::new(),
    };
    let policy = MethodPolicy {
        idempotency: Idempotency::NoSideEffects,
        hedging: Some(hedging),
        ..MethodPolicy::new(Duration::from_secs(5))
    };
    Policies::from_methods([(READ.to_owned(), policy)])
}

/// Every tenth call is never answered.
fn stuttering() -> Server {
    let calls = AtomicUsize::new(0);
    Server::start(move |_| {
        let slow = calls.fetch_add(1, Ordering::SeqCst) % 10 == 9;
        async move {
            if slow {
                std::future::pending::<()>().await;
            }
            Ok(String::new())
        }
    })
}

#[tokio::test]
async fn a_second_attempt_answers_when_the_first_does_not() {
    let server = stuttering();
    let channel = Channel::connect(echo::options(&[server.address]), &hedged(DELAY)).unwrap();
    let calls: usize = 100;
    for _ in 0..calls {
        echo::call_empty(&channel, READ).await.unwrap();
    }
    assert!(
        (calls + 1..calls * 13 / 10).contains(&server.calls()),
        "{} attempts",
        server.calls()
    );
}

#[tokio::test]
async fn a_failed_attempt_starts_the_next_one_at_once() {
    let broken = Server::start(|_| async { Err(Status::unavailable("broken")) });
    let good = Server::start(|_| async { Ok("good".to_owned()) });
    let channel = Channel::connect(echo::options(&[broken.address, good.address]), &hedged(DELAY)).unwrap();
    for _ in 0..20 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "good");
    }
}

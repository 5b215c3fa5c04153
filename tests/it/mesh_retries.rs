//! Calls that must not be retried are not, and retries of several layers do not multiply.

use std::time::Duration;

use mesh::{
    ChannelOptions, MethodPolicy, Policies,
    policy::{Idempotency, Retry},
};
use tests::{eventually, hop_service::Behavior};
use tonic::Code;

use crate::{
    mesh_deadlines::chain,
    mesh_fixture::{Caller, LIST, Load, hops, target, turn},
};

const REFUSE: Behavior = Behavior {
    work_ms: 0,
    max_concurrent: 0,
    refuse: true,
    panic: false,
};

/// A method with retries declared, but neither idempotent nor with a request id.
fn careless() -> Policies {
    let retry = Retry {
        max_attempts: 4,
        initial_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(50),
        backoff_multiplier: 2.0,
        retryable_codes: vec![Code::Unavailable],
        attempt_timeout: None,
    };
    let policy = MethodPolicy {
        idempotency: Idempotency::Unknown,
        retry: Some(retry),
        ..MethodPolicy::new(Duration::from_secs(5))
    };
    Policies::from_methods([(LIST.to_owned(), policy)])
}

#[tokio::test]
async fn a_method_with_effects_and_no_request_id_is_not_repeated() {
    let _turn = turn().await;
    let hops = hops();
    let (first, second) = tokio::join!(hops.start(&[]), hops.start(&[]));
    let options = ChannelOptions::new(target([&first, &second]), "order", "tests");
    let careless = Caller::by(&hops, options, &careless());
    careless.connected(2).await;
    first.set_behavior(REFUSE).await;
    second.set_behavior(REFUSE).await;
    assert_eq!(careless.list().await.unwrap_err().code(), Code::Unavailable);
    let seen = first.stats().await.started + second.stats().await.started;
    assert_eq!(seen, 1, "refused by the service");

    // The process dies during the call: its effect is unknown.
    for hop in [&first, &second] {
        hop.set_behavior(Behavior {
            work_ms: 60_000,
            ..Behavior::default()
        })
        .await;
    }
    let before = [first.stats().await.started, second.stats().await.started];
    let calling = tokio::spawn(async move { careless.list().await });
    let with_first = eventually(Duration::from_secs(5), || async {
        let now = [first.stats().await.started, second.stats().await.started];
        (now != before).then_some(now[0] > before[0])
    })
    .await;
    let (killed, other, seen) = if with_first {
        (&first, &second, before[1])
    } else {
        (&second, &first, before[0])
    };
    killed.kill9();
    assert_eq!(calling.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(other.stats().await.started, seen, "lost with its process");

    // With a request id it is retried.
    let caller = Caller::new(&hops, [other]);
    other.set_behavior(REFUSE).await;
    assert_eq!(caller.cancel().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(other.stats().await.started, seen + 4);
}

#[tokio::test]
async fn three_layers_that_all_repeat_add_up_and_do_not_multiply() {
    let _turn = turn().await;
    let hops = hops();
    let chain = chain(&hops).await;
    let caller = Caller::new(&hops, [&chain[0]]);
    caller.list().await.unwrap();
    chain[2].set_behavior(REFUSE).await;
    let before = chain[2].stats().await.started;
    assert_eq!(caller.list().await.unwrap_err().code(), Code::Unavailable);
    let one = chain[2].stats().await.started - before;

    let before = chain[2].stats().await.started;
    let load = Load::start(150, move || {
        let caller = caller.clone();
        async move { caller.list().await }
    });
    load.go_on_for(Duration::from_secs(6)).await;
    let calls = load.stop().await;
    let per_call = (chain[2].stats().await.started - before) as f64 / calls.len() as f64;
    println!(
        "three layers with four attempts each: {one} attempts at the last hop for a single call instead of 64; {per_call:.2} for each \
         of {} calls under load",
        calls.len()
    );
    // Four attempts by the second hop, then three more by each layer above.
    assert!((4..=10).contains(&one), "{one}");
    assert!(per_call <= 1.2, "{per_call:.2}");
}

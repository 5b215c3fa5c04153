//! Refusals: by an overloaded server, because of a caller's limit, or by the client itself.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::{Code, Request, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};
use weft_mesh::{Channel, Context, MethodPolicy, Origin, Policies, policy};

use crate::echo::{self, READ, Server, Text, WRITE};

/// A refusal like those of the chassis's server.
fn exhausted(reason: &str, pushback: &'static str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "weft", HashMap::new());
    let mut status = Status::with_error_details(Code::ResourceExhausted, "no", details);
    let pushback = MetadataValue::from_static(pushback);
    status.metadata_mut().insert("grpc-retry-pushback-ms", pushback);
    status
}

/// Read, with RESOURCE_EXHAUSTED among the codes that are retried.
fn retrying() -> Policies {
    let policies = echo::policies();
    let read = policies.method(READ).unwrap().clone();
    let retry = policy::Retry {
        retryable_codes: vec![Code::Unavailable, Code::ResourceExhausted],
        ..read.retry.clone().unwrap()
    };
    let retry = Some(retry);
    Policies::from_methods([(READ.to_owned(), MethodPolicy { retry, ..read })])
}

#[tokio::test]
async fn a_caller_over_its_limit_does_not_affect_the_calls_of_others() {
    for (reason, pushback) in [("RATE_LIMITED", "1"), ("MESSAGE_TOO_LARGE", "-1")] {
        let served = Arc::new(AtomicUsize::new(0));
        let server = {
            let served = Arc::clone(&served);
            Server::start(move |headers| {
                let limited = headers["authorization"] == "Bearer limited";
                served.fetch_add(usize::from(!limited), Ordering::SeqCst);
                async move {
                    if limited {
                        return Err(exhausted(reason, pushback));
                    }
                    Ok("served".to_owned())
                }
            })
        };
        let channel = Channel::connect(echo::options(&[server.address]), &retrying()).unwrap();
        let limited = Context::new().with_bearer("limited");
        for _ in 0..150 {
            let status = limited
                .clone()
                .scope(echo::call_empty(&channel, READ))
                .await
                .unwrap_err();
            assert_eq!(
                (status.code(), Origin::from_status(&status)),
                (Code::ResourceExhausted, Origin::Callee)
            );
        }
        assert_eq!(channel.snapshot().refusal, 0.0, "{reason}");
        let other = Context::new().with_bearer("other");
        for _ in 0..50 {
            other
                .clone()
                .scope(echo::call_empty(&channel, READ))
                .await
                .unwrap();
        }
        assert_eq!(served.load(Ordering::SeqCst), 50);
    }
}

#[tokio::test]
async fn a_message_too_large_is_not_retried() {
    let server = Server::start(|_| async { Err(exhausted("MESSAGE_TOO_LARGE", "-1")) });
    let channel = Channel::connect(echo::options(&[server.address]), &retrying()).unwrap();
    echo::call_empty(&channel, READ).await.unwrap_err();
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_throttled_call_must_not_be_retried_by_callers_further_up() {
    let server = Server::start(|_| async { Err(exhausted("OVERLOADED", "1")) });
    let channel = Channel::connect(echo::options(&[server.address]), &echo::policies()).unwrap();
    let mut throttled = Vec::new();
    for _ in 0..200 {
        let status = echo::call_empty(&channel, WRITE).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        if Origin::from_status(&status) == Origin::NotSent {
            throttled.push(status);
        }
    }
    assert_eq!(server.calls() + throttled.len(), 200);
    let refused = throttled.pop().expect("most calls are throttled");
    assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");

    // A service that propagates the refusal, and its caller.
    let relaying = Server::start(move |_| {
        let refused = refused.clone();
        async move { Err(refused) }
    });
    let channel = Channel::connect(echo::options(&[relaying.address]), &retrying()).unwrap();
    for _ in 0..50 {
        echo::call_empty(&channel, READ).await.unwrap_err();
    }
    assert_eq!((relaying.calls(), channel.snapshot().refusal), (50, 0.0));
}

#[tokio::test]
async fn the_origin_of_a_status_is_known() {
    let server = Server::start(|headers| async move {
        if headers.contains_key("refuse") {
            return Err(Status::out_of_range("the callee's rule"));
        }
        if headers.contains_key("late") {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        Ok("x".repeat(1_000))
    });
    let channel = echo::channel(&[server.address]);
    let mut refuse = Request::new(Text::default());
    refuse
        .metadata_mut()
        .insert("refuse", MetadataValue::from_static("1"));
    let status = echo::call(&channel, WRITE, refuse).await.unwrap_err();
    assert_eq!(
        (status.code(), Origin::from_status(&status)),
        (Code::OutOfRange, Origin::Callee)
    );

    let codec = tonic_prost::ProstCodec::<Text, Text>::default;
    let mut small = tonic::client::Grpc::new(channel.clone())
        .max_decoding_message_size(100)
        .max_encoding_message_size(100);
    small.ready().await.unwrap();
    let status = small
        .unary(Request::new(Text::default()), WRITE.parse().unwrap(), codec())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), Origin::from_status(&status)),
        (Code::OutOfRange, Origin::Client)
    );

    let before = server.calls();
    let text = "y".repeat(1_000);
    let status = small
        .unary(Request::new(Text { text }), WRITE.parse().unwrap(), codec())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), Origin::from_status(&status)),
        (Code::OutOfRange, Origin::NotSent)
    );
    assert_eq!(server.calls(), before);

    let mut late = Request::new(Text::default());
    late.metadata_mut()
        .insert("late", MetadataValue::from_static("1"));
    late.set_timeout(Duration::from_millis(100));
    let status = echo::call(&channel, WRITE, late).await.unwrap_err();
    assert_eq!(
        (status.code(), Origin::from_status(&status)),
        (Code::DeadlineExceeded, Origin::Client)
    );

    let status = echo::call_empty(&echo::channel(&[echo::unused_address()]), WRITE)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), Origin::from_status(&status)),
        (Code::Unavailable, Origin::NotSent)
    );
}

#[tokio::test]
async fn an_endless_pushback_delay_prevents_retries_and_causes_no_overflow() {
    let wait = prost_types::Duration {
        seconds: i64::MAX,
        nanos: 999_999_999,
    };
    let info = tonic_types::pb::RetryInfo {
        retry_delay: Some(wait),
    };
    let details = tonic_types::pb::Status {
        code: Code::Unavailable as i32,
        message: "later".to_owned(),
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: prost::Message::encode_to_vec(&info),
        }],
    };
    let details = prost::Message::encode_to_vec(&details);
    let server = Server::start(move |_| {
        let details = details.clone();
        async move { Err(Status::with_details(Code::Unavailable, "later", details.into())) }
    });
    for hedged in [false, true] {
        let policies = if hedged { hedging() } else { echo::policies() };
        let channel = Channel::connect(echo::options(&[server.address]), &policies).unwrap();
        let before = server.calls();
        let status = echo::call_empty(&channel, READ).await.unwrap_err();
        assert_eq!((status.code(), server.calls()), (Code::Unavailable, before + 1));
    }
}

fn hedging() -> Policies {
    let read = echo::policies().method(READ).unwrap().clone();
    let hedging = policy::Hedging {
        max_attempts: 3,
        delay: Duration::from_secs(4),
        non_fatal_codes: Vec::new(),
    };
    let read = MethodPolicy {
        retry: None,
        hedging: Some(hedging),
        ..read
    };
    Policies::from_methods([(READ.to_owned(), read)])
}

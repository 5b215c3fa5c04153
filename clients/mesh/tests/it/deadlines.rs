//! No call outlives its caller's deadline.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tonic::{Code, Request};
use weft_mesh::{Context, grpc_timeout};

use crate::echo::{self, READ, Server, Text};

#[tokio::test]
async fn each_hop_sees_less_time_than_the_one_before() {
    let server = Server::start(|headers| async move {
        let left = grpc_timeout::decode(&headers).unwrap().unwrap();
        Ok(left.as_micros().to_string())
    });
    let channel = echo::channel(&[server.address]);
    let caller = Context::new().with_timeout(Duration::from_millis(300));
    let answer = echo::call(&channel, READ, caller.request(Text::default()))
        .await
        .unwrap();
    let left: u64 = answer.into_inner().text.parse().unwrap();
    assert!(
        (1..=295_000).contains(&left),
        "the callee was given {left} us of 300 ms"
    );
}

#[tokio::test]
async fn a_chain_of_hops_shares_one_deadline_and_the_slow_last_hop_is_cancelled() {
    let stopped = Arc::new(AtomicBool::new(false));
    let guard = Arc::clone(&stopped);
    let last = Server::start(move |_| {
        let guard = Stopped(Arc::clone(&guard));
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hop = |next: SocketAddr| {
        let (seen, channel) = (Arc::clone(&seen), echo::channel(&[next]));
        Server::start(move |headers| {
            let (seen, channel) = (Arc::clone(&seen), channel.clone());
            async move {
                seen.lock()
                    .unwrap()
                    .push(grpc_timeout::decode(&headers).unwrap().unwrap());
                Context::from_headers(&headers)
                    .unwrap()
                    .scope(echo::call_empty(&channel, READ))
                    .await
            }
        })
    };
    let second = hop(last.address);
    let first = hop(second.address);
    let channel = echo::channel(&[first.address]);
    // Connects first, so that the deadline is spent on the calls.
    let warm = Context::new().with_timeout(Duration::from_secs(1));
    assert!(warm.scope(echo::call_empty(&channel, READ)).await.is_err());
    seen.lock().unwrap().clear();
    stopped.store(false, Ordering::SeqCst);

    let caller = Context::new().with_timeout(Duration::from_secs(1));
    let status = echo::call(&channel, READ, caller.request(Text::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let seen = seen.lock().unwrap().clone();
    assert!(
        seen.len() == 2 && seen[0] < Duration::from_secs(1) && seen[1] < seen[0],
        "{seen:?}"
    );
    while !stopped.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
}

/// Sets the flag when it is dropped with the handler's future.
struct Stopped(Arc<AtomicBool>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_slow_callee_ends_as_deadline_exceeded_and_in_time() {
    let server = Server::start(|_| async { std::future::pending().await });
    let channel = echo::channel(&[server.address]);
    for _ in 0..20 {
        let started = Instant::now();
        let caller = Context::new().with_timeout(Duration::from_millis(50));
        let status = echo::call(&channel, READ, caller.request(Text::default()))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        // The method's own timeout is 5 s; the timer's precision is tested with paused time.
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_call_that_is_too_late_is_never_sent() {
    let server = Server::start(|_| async { Ok(String::new()) });
    let channel = echo::channel(&[server.address]);
    echo::call_empty(&channel, READ).await.unwrap();
    let late = Context::new().with_timeout(Duration::ZERO);
    let status = late.scope(echo::call_empty(&channel, READ)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn the_deadline_covers_a_stream_to_its_last_message() {
    let server = Server::start(|_| async { Ok("tick".to_owned()) });
    let channel = echo::channel(&[server.address]);
    // The stream itself has no end.
    let caller = Context::new().with_timeout(Duration::from_millis(400));
    let mut stream = echo::watch(&channel, caller.request(Text::default()))
        .await
        .unwrap();
    let mut ticks = 0;
    let status = loop {
        match stream.message().await {
            Ok(message) => assert_eq!(message.unwrap().text, "tick"),
            Err(status) => break status,
        }
        ticks += 1;
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(ticks >= 1, "it had begun");
}

#[tokio::test]
async fn a_requests_own_timeout_applies_as_well() {
    let server = Server::start(|_| async { std::future::pending().await });
    let channel = echo::channel(&[server.address]);
    let mut request = Request::new(Text::default());
    request.set_timeout(Duration::from_millis(40));
    let status = echo::call(&channel, READ, request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_callers_token_is_propagated_and_a_requests_own_token_is_kept() {
    let server =
        Server::start(|headers| async move { Ok(headers["authorization"].to_str().unwrap().to_owned()) });
    let channel = echo::channel(&[server.address]);
    let caller = Context::new().with_bearer("callers");
    assert_eq!(
        caller
            .clone()
            .scope(echo::call_empty(&channel, READ))
            .await
            .unwrap(),
        "Bearer callers"
    );
    let mut request = caller.request(Text::default());
    request
        .metadata_mut()
        .insert("authorization", "Bearer own".parse().unwrap());
    assert_eq!(
        echo::call(&channel, READ, request)
            .await
            .unwrap()
            .into_inner()
            .text,
        "Bearer own"
    );
}

//! Endpoints come and go, and calls do not notice.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::echo::{self, READ, Server, WRITE};

async fn named(name: &'static str) -> Result<String, tonic::Status> {
    Ok(name.to_owned())
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_call() {
    let dead = echo::dead_end();
    let server = Server::start(|_| named("alive"));
    let channel = echo::channel(&[dead, server.address]);
    for _ in 0..50 {
        assert_eq!(echo::ask(&channel, WRITE).await.unwrap(), "alive");
    }
}

#[tokio::test]
async fn a_call_waits_for_the_first_connection() {
    let server = Server::start(|_| named("up"));
    let channel = echo::channel(&[server.address]);
    assert_eq!(echo::ask(&channel, WRITE).await.unwrap(), "up");
}

#[tokio::test]
async fn with_nothing_reachable_a_call_fails_at_once_and_says_why() {
    let dead = echo::dead_end();
    let channel = echo::channel(&[dead]);
    let started = Instant::now();
    let status = echo::ask(&channel, WRITE).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("echo") && status.message().contains("refused"),
        "{status}"
    );
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn waiting_for_an_endpoint_is_a_choice_and_ends_with_the_deadline() {
    let dead = echo::dead_end();
    let mut options = echo::options(&[dead]);
    options.tuning.wait_for_ready = true;
    let channel = mesh::Channel::connect(options, &echo::policies()).unwrap();
    let caller = mesh::Context::new().with_timeout(Duration::from_millis(100));
    let status = caller.scope(echo::ask(&channel, WRITE)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);

    let waiting = tokio::spawn(async move { echo::ask(&channel, WRITE).await });
    let _server = Server::start_at(dead, |_| named("back"));
    assert_eq!(waiting.await.unwrap().unwrap(), "back");
}

#[tokio::test]
async fn killing_one_of_two_fails_no_safe_call() {
    let first = Server::start(|_| named("first"));
    let second = Server::start(|_| named("second"));
    let channel = echo::channel(&[first.address, second.address]);
    let mut first = Some(first);
    for round in 0..300 {
        if round == 100 {
            first = None;
        }
        echo::ask(&channel, READ).await.unwrap();
    }
    assert!(first.is_none());
}

#[tokio::test]
async fn a_server_that_goes_away_politely_fails_no_call_at_all() {
    let mut first = Server::start(|_| named("first"));
    let second = Server::start(|_| named("second"));
    let channel = echo::channel(&[first.address, second.address]);
    for round in 0..300 {
        if round == 100 {
            first.stop();
        }
        echo::ask(&channel, WRITE).await.unwrap();
    }
    assert_eq!(echo::ask(&channel, WRITE).await.unwrap(), "second");
}

#[tokio::test]
async fn an_endpoint_that_returns_is_found_within_two_seconds() {
    let server = Server::start(|_| named("before"));
    let address = server.address;
    let channel = echo::channel(&[address]);
    echo::ask(&channel, READ).await.unwrap();
    drop(server);
    while echo::ask(&channel, READ).await.is_ok() {}
    let _server = Server::start_at(address, |_| named("after"));
    let returned = Instant::now();
    while echo::ask(&channel, READ).await.is_err() {
        assert!(returned.elapsed() < Duration::from_secs(2));
        tokio::task::yield_now().await;
    }
}

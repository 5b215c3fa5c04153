//! Endpoints are added, removed and restarted without failing calls.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tonic::Code;
use weft_mesh::{Channel, Context};

use crate::echo::{self, READ, Server, WRITE};

async fn named(name: &'static str) -> Result<String, tonic::Status> {
    Ok(name.to_owned())
}

#[tokio::test]
async fn a_dead_endpoint_fails_no_call() {
    let dead = echo::unused_address();
    let server = Server::start(|_| named("alive"));
    let channel = echo::channel(&[dead, server.address]);
    for _ in 0..50 {
        assert_eq!(echo::call_empty(&channel, WRITE).await.unwrap(), "alive");
    }
}

#[tokio::test]
async fn a_call_waits_for_the_first_connection() {
    let server = Server::start(|_| named("up"));
    let channel = echo::channel(&[server.address]);
    assert_eq!(echo::call_empty(&channel, WRITE).await.unwrap(), "up");
}

#[tokio::test]
async fn with_nothing_reachable_a_call_fails_at_once_with_the_reason() {
    let dead = echo::unused_address();
    let channel = echo::channel(&[dead]);
    // A call that waited would end with DEADLINE_EXCEEDED.
    let status = echo::call_empty(&channel, WRITE).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("echo") && status.message().contains("refused"),
        "{status}"
    );
}

#[tokio::test]
async fn with_wait_for_ready_a_call_waits_until_its_deadline() {
    let dead = echo::unused_address();
    let mut options = echo::options(&[dead]);
    options.tuning.wait_for_ready = true;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    let caller = Context::new().with_timeout(Duration::from_millis(100));
    let status = caller.scope(echo::call_empty(&channel, WRITE)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);

    let waiting = tokio::spawn(async move { echo::call_empty(&channel, WRITE).await });
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
        echo::call_empty(&channel, READ).await.unwrap();
    }
    assert!(first.is_none());
}

#[tokio::test]
async fn a_graceful_shutdown_fails_no_call() {
    let mut first = Server::start(|_| named("first"));
    let second = Server::start(|_| named("second"));
    let channel = echo::channel(&[first.address, second.address]);
    for round in 0..300 {
        if round == 100 {
            first.stop();
        }
        echo::call_empty(&channel, WRITE).await.unwrap();
    }
    assert_eq!(echo::call_empty(&channel, WRITE).await.unwrap(), "second");
}

#[tokio::test]
async fn a_restarted_endpoint_is_reconnected() {
    let server = Server::start(|_| named("before"));
    let address = server.address;
    let channel = echo::channel(&[address]);
    echo::call_empty(&channel, READ).await.unwrap();
    drop(server);
    while echo::call_empty(&channel, READ).await.is_ok() {}
    let _server = Server::start_at(address, |_| named("after"));
    let returned = Instant::now();
    while echo::call_empty(&channel, READ).await.is_err() {
        assert!(returned.elapsed() < Duration::from_secs(30));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_listener_that_never_sends_anything_gets_no_calls() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(|_| named("speaks"));
    let mut options = echo::options(&[silent.local_addr().unwrap(), server.address]);
    options.tuning.connect_timeout_ms = 100;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    let caller = Context::new().with_timeout(Duration::from_secs(2));
    for _ in 0..20 {
        assert_eq!(
            caller
                .clone()
                .scope(echo::call_empty(&channel, WRITE))
                .await
                .unwrap(),
            "speaks"
        );
    }
}

#[tokio::test]
async fn a_connection_that_drops_all_packets_is_detected_by_pings() {
    let far = Server::start(|_| named("far"));
    let near = Server::start(|_| named("near"));
    let black_hole = BlackHole::start(far.address).await;
    let mut options = echo::options(&[black_hole.address, near.address]);
    options.tuning.keepalive_interval_ms = 100;
    options.tuning.keepalive_timeout_ms = 100;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    while echo::call_empty(&channel, READ).await.unwrap() != "far" {}
    black_hole.dropping.store(true, Ordering::SeqCst);
    let dropped_since = Instant::now();
    let connected = || {
        let endpoints = channel.snapshot().endpoints;
        endpoints
            .iter()
            .any(|endpoint| endpoint.address == black_hole.address.to_string() && endpoint.connected)
    };
    while connected() {
        assert!(dropped_since.elapsed() < Duration::from_secs(30));
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "near");
    }
}

#[tokio::test]
async fn a_connection_that_drops_all_packets_is_closed_within_the_deadlines_of_calls_by_default() {
    let far = Server::start(|_| named("far"));
    let near = Server::start(|_| named("near"));
    let black_hole = BlackHole::start(far.address).await;
    let channel = echo::channel(&[black_hole.address, near.address]);
    while echo::call_empty(&channel, READ).await.unwrap() != "far" {}
    black_hole.dropping.store(true, Ordering::SeqCst);
    let caller = Context::new().with_timeout(Duration::from_secs(4));
    let calls = (0..20).map(|_| caller.clone().scope(echo::call_empty(&channel, READ)));
    let began = Instant::now();
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), "near");
    }
    println!("20 calls took {:.2?} at most", began.elapsed());
}

#[tokio::test]
async fn a_slow_response_is_waited_for_while_pings_are_answered() {
    let server = Server::start(|_| async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        Ok("at last".to_owned())
    });
    let mut options = echo::options(&[server.address]);
    options.tuning.silence_ms = 100;
    options.tuning.silence_timeout_ms = 500;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    assert_eq!(echo::call_empty(&channel, WRITE).await.unwrap(), "at last");
    assert_eq!(server.calls(), 1);
}

/// A relay that can drop all data like a broken network, without a reset.
struct BlackHole {
    address: SocketAddr,
    dropping: Arc<AtomicBool>,
    _tasks: tokio::task::JoinSet<()>,
}

impl BlackHole {
    async fn start(server: SocketAddr) -> BlackHole {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, dropping) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let mut tasks = tokio::task::JoinSet::new();
        let flag = Arc::clone(&dropping);
        tasks.spawn(async move {
            let mut relays = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = TcpStream::connect(server).await.unwrap().into_split();
                relays.spawn(relay(client_read, server_write, Arc::clone(&flag)));
                relays.spawn(relay(server_read, client_write, Arc::clone(&flag)));
            }
        });
        BlackHole {
            address,
            dropping,
            _tasks: tasks,
        }
    }
}

async fn relay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, dropping: Arc<AtomicBool>) {
    let mut bytes = [0; 4096];
    while let Ok(count) = from.read(&mut bytes).await
        && count > 0
    {
        if !dropping.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_name_is_resolved_and_one_without_an_address_fails_with_the_reason() {
    let server = Server::start(|_| named("found"));
    let mut options = echo::options(&[]);
    options.target = format!("dns:http://localhost:{}", server.address.port());
    let channel = Channel::connect(options.clone(), &echo::policies()).unwrap();
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "found");

    options.target = "dns:http://no-such-name.invalid:1".to_owned();
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    let status = echo::call_empty(&channel, WRITE).await.unwrap_err();
    assert!(status.message().contains("name resolution"), "{status}");
}

#[tokio::test]
async fn restarting_all_endpoints_one_by_one_fails_no_safe_call() {
    let mut servers: Vec<_> = (0..3).map(|_| Server::start(|_| named("up"))).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let channel = echo::channel(&addresses);
    let connected = || {
        channel
            .snapshot()
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.connected)
            .count()
    };
    while connected() < 3 {
        echo::call_empty(&channel, READ).await.unwrap();
    }
    for address in addresses {
        servers.remove(0);
        while connected() == 3 {
            echo::call_empty(&channel, READ).await.unwrap();
        }
        servers.push(Server::start_at(address, |_| named("up")));
        while connected() < 3 {
            echo::call_empty(&channel, READ).await.unwrap();
        }
    }
}

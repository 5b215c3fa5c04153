//! Load goes where it is served best, and broken endpoints are left alone.

use std::time::{Duration, Instant};

use mesh::Channel;
use tonic::{Code, Status};

use crate::echo::{self, READ, Server, WRITE};

fn answering(name: &'static str) -> Server {
    Server::start(move |_| async move { Ok(name.to_owned()) })
}

#[tokio::test]
async fn an_endpoint_that_fails_at_once_gets_next_to_no_traffic_and_costs_no_call() {
    let bad = Server::start(|_| async { Err(Status::unavailable("broken")) });
    let (second, third) = (answering("second"), answering("third"));
    let channel = echo::channel(&[bad.address, second.address, third.address]);
    let calls: usize = 2_000;
    for _ in 0..calls {
        echo::ask(&channel, READ).await.unwrap();
    }
    assert!(
        bad.calls() * 50 < calls,
        "{} of {calls} calls went to the broken endpoint",
        bad.calls()
    );
}

#[tokio::test]
async fn a_slow_endpoint_gets_a_small_share() {
    let slow = Server::start(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(String::new())
    });
    let (second, third) = (answering("second"), answering("third"));
    let channel = echo::channel(&[slow.address, second.address, third.address]);
    for _ in 0..300 {
        echo::ask(&channel, WRITE).await.unwrap();
    }
    // Where load is even it gets a hundred.
    assert!(
        slow.calls() < 40,
        "{} of 300 calls went to the slow endpoint",
        slow.calls()
    );
}

#[tokio::test]
async fn the_own_zone_is_preferred_and_left_when_it_is_gone() {
    let near = answering("near");
    let far = answering("far");
    let mut options = echo::options(&[]);
    options.target = format!(
        "static:http://{};zone=a,http://{};zone=b",
        near.address, far.address
    );
    options.tuning.zone = Some("a".to_owned());
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    while echo::ask(&channel, READ).await.unwrap() == "far" {}
    for _ in 0..50 {
        assert_eq!(echo::ask(&channel, READ).await.unwrap(), "near");
    }
    drop(near);
    assert_eq!(echo::ask(&channel, READ).await.unwrap(), "far");
}

#[tokio::test]
async fn calls_beyond_the_cap_wait_for_room_in_a_queue_of_bounded_length() {
    let server = Server::start(|_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(String::new())
    });
    let mut options = echo::options(&[server.address]);
    options.tuning.max_in_flight = 2;
    options.tuning.max_waiting = 2;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    echo::ask(&channel, WRITE).await.unwrap();

    let started = Instant::now();
    let calls = (0..6).map(|_| echo::ask(&channel, WRITE));
    let answers = futures_util::future::join_all(calls).await;
    let refused: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert_eq!(answers.len() - refused.len(), 4);
    assert!(
        refused
            .iter()
            .all(|status| status.code() == Code::ResourceExhausted)
    );
    assert!(
        started.elapsed() >= Duration::from_millis(100),
        "two rounds of 50 ms"
    );
    assert_eq!(server.calls(), 5);
}

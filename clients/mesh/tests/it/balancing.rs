//! Balancing prefers fast endpoints and avoids broken ones.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Semaphore, watch};
use tonic::{Code, Status};
use weft_mesh::Channel;

use crate::echo::{self, READ, Server, WRITE};

fn answering(name: &'static str) -> Server {
    Server::start(move |_| async move { Ok(name.to_owned()) })
}

#[tokio::test]
async fn an_endpoint_that_fails_at_once_gets_hardly_any_traffic_and_fails_no_call() {
    let bad = Server::start(|_| async { Err(Status::unavailable("broken")) });
    let (second, third) = (answering("second"), answering("third"));
    let channel = echo::channel(&[bad.address, second.address, third.address]);
    let calls: usize = 2_000;
    for _ in 0..calls {
        echo::call_empty(&channel, READ).await.unwrap();
    }
    assert!(
        bad.calls() * 50 < calls,
        "{} of {calls} calls went to the broken endpoint",
        bad.calls()
    );
}

#[tokio::test]
async fn a_slow_endpoint_gets_a_small_share() {
    let (progress, observed) = watch::channel((0, false));
    // An answer takes as long as twenty answers of the others.
    let slow = Server::start(move |_| {
        let mut observed = observed.clone();
        async move {
            let enough = observed.borrow().0 + 20;
            let enough = |(answered, over): &(usize, bool)| *over || *answered >= enough;
            let _ = observed.wait_for(enough).await;
            Ok(String::new())
        }
    });
    let progress = Arc::new(progress);
    let quick = || {
        let progress = Arc::clone(&progress);
        Server::start(move |_| {
            progress.send_modify(|(answered, _)| *answered += 1);
            async { Ok(String::new()) }
        })
    };
    let (second, third) = (quick(), quick());
    let channel = echo::channel(&[slow.address, second.address, third.address]);
    // A call that found only the slow endpoint connected would wait for the others' answers forever.
    while channel
        .snapshot()
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.connected)
        .count()
        < 3
    {
        tokio::task::yield_now().await;
    }
    let callers = (0..6).map(|_| async {
        for _ in 0..50 {
            echo::call_empty(&channel, WRITE).await.unwrap();
        }
        // The last calls do not wait for answers to calls that are no longer made.
        progress.send_modify(|(_, over)| *over = true);
    });
    futures_util::future::join_all(callers).await;
    // With an even load it would get a hundred.
    assert!(
        slow.calls() < 40,
        "{} of 300 calls went to the slow endpoint",
        slow.calls()
    );
}

#[tokio::test]
async fn the_own_zone_is_preferred_until_it_has_no_endpoint() {
    let near = answering("near");
    let far = answering("far");
    let mut options = echo::options(&[]);
    options.target = format!(
        "static:http://{};zone=a,http://{};zone=b",
        near.address, far.address
    );
    options.tuning.zone = Some("a".to_owned());
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    while echo::call_empty(&channel, READ).await.unwrap() == "far" {}
    for _ in 0..50 {
        assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "near");
    }
    drop(near);
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "far");
}

#[tokio::test]
async fn calls_beyond_the_limit_wait_in_a_queue_of_bounded_length() {
    let gate = Arc::new(Semaphore::new(1));
    let (behind, inside) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let server = Server::start(move |_| {
        let (gate, inside) = (Arc::clone(&behind), Arc::clone(&inside));
        async move {
            let others = inside.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
            inside.fetch_sub(1, Ordering::SeqCst);
            assert!(others < 2, "{others} others are inside");
            Ok(String::new())
        }
    });
    let mut options = echo::options(&[server.address]);
    options.tuning.max_in_flight = 2;
    options.tuning.max_waiting = 2;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    echo::call_empty(&channel, WRITE).await.unwrap();

    let calls: FuturesUnordered<_> = (0..6).map(|_| echo::call_empty(&channel, WRITE)).collect();
    // Two are in flight, two wait, and the queue is full for the rest.
    let (refused, taken) = calls.into_future().await;
    let (refused_too, taken) = taken.into_future().await;
    for refusal in [refused, refused_too] {
        assert_eq!(refusal.unwrap().unwrap_err().code(), Code::ResourceExhausted);
    }
    gate.add_permits(4);
    let answers: Vec<_> = taken.collect().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((answers.len(), server.calls()), (4, 5));
}

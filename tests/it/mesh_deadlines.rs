//! Deadlines in a chain of processes and on a connection that has gone silent.

use std::time::{Duration, Instant};

use anyhow::ensure;
use mesh::ChannelOptions;
use tests::{Hop, Hops, TcpFaultProxy, eventually, hop_service::Behavior};
use tonic::Code;

use crate::mesh_fixture::{Caller, Load, Verdict, hops, measured, target, turn};

const DEADLINE: Duration = Duration::from_millis(200);

/// The first calls the second, the second the third.
pub(crate) async fn chain(hops: &Hops) -> [Hop; 3] {
    let third = hops.start(&[]).await;
    let second = hops.start(&[("next.target", &target([&third]))]).await;
    let first = hops.start(&[("next.target", &target([&second]))]).await;
    [first, second, third]
}

fn work(work_ms: u64) -> Behavior {
    Behavior {
        work_ms,
        ..Behavior::default()
    }
}

#[tokio::test]
async fn each_hop_of_a_chain_has_less_time_and_the_slow_one_stops_at_the_deadline() {
    let _turn = turn().await;
    // Long enough to reach the last hop on a busy machine.
    too_little_time(Duration::from_secs(1), 5, Verdict::Counts)
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "measures time: `make load`"]
async fn the_slow_hop_of_a_chain_stops_within_milliseconds_of_the_deadline() {
    let _turn = turn().await;
    measured(|| too_little_time(Duration::from_millis(200), 20, Verdict::Times)).await;
}

async fn too_little_time(deadline: Duration, calls: usize, verdict: Verdict) -> anyhow::Result<()> {
    let hops = hops();
    let chain = chain(&hops).await;
    let caller = Caller::new(&hops, [&chain[0]]);
    for _ in 0..5 {
        // The connections are open, and the token is verified.
        caller.list().await.unwrap();
    }
    let warm = chain[2].stats().await.started as usize;
    chain[2].set_behavior(work(60_000)).await;
    let caller = caller.within(deadline);
    let mut longest = Duration::ZERO;
    for _ in 0..calls {
        let began = Instant::now();
        let status = caller.list().await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        longest = longest.max(began.elapsed());
    }
    eventually(Duration::from_secs(5), || async {
        let stats = chain[2].stats().await;
        stats.started == stats.finished + stats.cancelled
    })
    .await;

    let mut left = Vec::new();
    for hop in &chain {
        let stats = hop.stats().await;
        assert_eq!(
            stats.started as usize,
            warm + calls,
            "nothing is sent twice or late"
        );
        left.push(stats.remaining_us[warm..].to_vec());
    }
    for call in 0..calls {
        let [first, second, third] = [&left[0], &left[1], &left[2]].map(|hop| hop[call]);
        let given = deadline.as_micros() as u64;
        assert!(
            third < second && second < first && first <= given,
            "{first} {second} {third}"
        );
    }
    let mut late = chain[2].stats().await.late_us;
    late.sort_unstable();
    let median = |hop: &[u64]| {
        let mut sorted = hop.to_vec();
        sorted.sort_unstable();
        sorted[calls / 2] as f64 / 1000.0
    };
    println!(
        "a chain of three with {deadline:?}: left on arrival {:.1}, {:.1}, {:.1} ms (medians); the slow hop stops {:.1} ms after its \
         deadline (median), {:.1} ms at most; the client waits {longest:.1?} at most",
        median(&left[0]),
        median(&left[1]),
        median(&left[2]),
        late[calls / 2] as f64 / 1000.0,
        late[calls - 1] as f64 / 1000.0,
    );
    ensure!(
        verdict == Verdict::Counts || late[calls / 2] <= 10_000,
        "stopped too late: {late:?}"
    );
    Ok(())
}

#[tokio::test]
async fn no_call_is_forwarded_after_the_deadline() {
    let _turn = turn().await;
    let hops = hops();
    let chain = chain(&hops).await;
    let caller = Caller::new(&hops, [&chain[0]]);
    caller.list().await.unwrap();
    chain[1].set_behavior(work(250)).await;
    let caller = caller.within(DEADLINE);
    for _ in 0..3 {
        assert_eq!(caller.list().await.unwrap_err().code(), Code::DeadlineExceeded);
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(chain[1].stats().await.started, 1 + 3);
    assert_eq!(
        chain[2].stats().await.started,
        1,
        "the work of the second ended too late"
    );
}

#[tokio::test]
async fn a_silent_connection_is_detected_by_default_and_its_calls_are_retried_elsewhere_in_time() {
    let _turn = turn().await;
    let hops = hops();
    let (silent, sound) = tokio::join!(hops.start(&[]), hops.start(&[]));
    let link = TcpFaultProxy::start(&silent.address()).await;
    let target = format!("static:http://{},http://{}", link.address(), sound.address());
    let options = ChannelOptions::new(target, "order", "tests");
    let caller = Caller::with(&hops, options).within(Duration::from_secs(4));
    caller.connected(2).await;
    // Long enough for two concurrent calls: a single one would always find the faster endpoint free, and a
    // connection without calls is not checked.
    for hop in [&silent, &sound] {
        hop.set_behavior(work(30)).await;
    }
    let calling = caller.clone();
    let load = Load::start(100, move || {
        let caller = calling.clone();
        async move { caller.list().await }
    });
    load.go_on_for(Duration::from_millis(500)).await;
    link.black_hole();
    let (began, silenced) = (Instant::now(), load.began.elapsed());
    caller.connected(1).await;
    let (found, detected) = (began.elapsed(), load.began.elapsed());
    load.go_on_for(Duration::from_secs(1)).await;
    link.heal();
    caller.connected(2).await;
    load.go_on_for(Duration::from_millis(300)).await;
    let calls = load.stop().await;
    let held = calls
        .since(silenced)
        .0
        .iter()
        .filter(|call| call.took > Duration::from_millis(300))
        .count();
    println!(
        "a connection goes silent: found out after {found:.1?}; {} calls, {} failed, {held} were held up, the longest took {:.1?}; \
         p90 thereafter {:.1?}",
        calls.len(),
        calls.len() - calls.good(),
        calls.quantile(1.0),
        calls.since(detected).quantile(0.9),
    );
    assert_eq!(calls.good(), calls.len(), "{:?}", calls.failures());
}

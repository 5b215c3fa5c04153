//! Endpoints die, are replaced, and are all unavailable for a while.

use std::time::{Duration, Instant};

use tests::{eventually, hop_service::Behavior};

use crate::mesh_fixture::{Caller, Load, hops, three, turn};

#[tokio::test]
async fn a_killed_endpoint_and_a_rolling_restart_of_all_fail_no_call() {
    let _turn = turn().await;
    let hops = hops();
    let all = three(&hops, &[]).await;
    let work = Behavior {
        work_ms: 20,
        ..Behavior::default()
    };
    for hop in &all {
        hop.set_behavior(work).await;
    }
    let caller = Caller::new(&hops, &all);
    caller.connected(3).await;
    let calling = caller.clone();
    let load = Load::start(150, move || {
        let caller = calling.clone();
        async move { caller.list().await }
    });
    load.go_on_for(Duration::from_millis(500)).await;

    let killed = load.began.elapsed();
    all[0].kill9();
    caller.connected(2).await;
    load.go_on_for(Duration::from_millis(300)).await;
    all[0].restart().await;
    all[0].set_behavior(work).await;
    caller.connected(3).await;

    let rolling = load.began.elapsed();
    for hop in &all {
        assert!(hop.stop().await.success());
        hop.restart().await;
        hop.set_behavior(work).await;
        caller.connected(3).await;
    }
    load.go_on_for(Duration::from_millis(300)).await;
    let calls = load.stop().await;
    println!(
        "kill -9 at {killed:.1?} and a rolling restart of three from {rolling:.1?} on: {} calls, {} failed, the longest took {:.1?}",
        calls.len(),
        calls.len() - calls.good(),
        calls.quantile(1.0),
    );
    assert_eq!(calls.good(), calls.len(), "{:?}", calls.failures());
}

/// First the processes refuse every call, then they are gone.
#[tokio::test]
async fn an_outage_of_all_endpoints_causes_no_retry_storm_and_ends_with_the_first_endpoint() {
    let _turn = turn().await;
    let lasting = Duration::from_secs(10);
    let hops = hops();
    let all = three(&hops, &[]).await;
    let caller = Caller::new(&hops, &all);
    caller.connected(3).await;
    let calling = caller.clone();
    let load = Load::start(150, move || {
        let caller = calling.clone();
        async move { caller.list().await }
    });
    load.go_on_for(Duration::from_secs(1)).await;
    let refusing = load.began.elapsed();
    for hop in &all {
        hop.set_behavior(Behavior {
            refuse: true,
            ..Behavior::default()
        })
        .await;
    }
    let mut before = 0;
    for hop in &all {
        before += hop.stats().await.started;
    }
    load.go_on_for(lasting).await;
    let mut seen = 0;
    for hop in &all {
        seen += hop.stats().await.started;
    }
    let gone = load.began.elapsed();
    all.iter().for_each(|hop| hop.kill9());
    load.go_on_for(lasting).await;
    let traffic = caller.channel.snapshot().traffic;

    all[1].restart().await;
    let (back, returned) = (Instant::now(), load.began.elapsed());
    eventually(Duration::from_secs(10), || async { caller.list().await.is_ok() }).await;
    let recovery = back.elapsed();
    load.go_on_for(Duration::from_secs(3)).await;
    let calls = load.stop().await;

    let mut refused = calls.since(refusing);
    refused.0.retain(|call| call.due < gone);
    let per_call = (seen - before) as f64 / refused.len() as f64;
    let per_call_gone = traffic.attempts_per_s / traffic.calls_per_s;
    let recovered = calls.since(returned + recovery + Duration::from_secs(2));
    println!(
        "all down for twice {lasting:?}: {per_call:.2} attempts per call while they refuse, {per_call_gone:.2} over the last 10 s \
         until after they were gone; the first call went well {recovery:.1?} after the first return, from 2 s after that on {} of {}",
        recovered.good(),
        recovered.len(),
    );
    assert!(per_call <= 1.2, "{per_call:.2}");
    assert!(per_call_gone <= 1.2, "{per_call_gone:.2}");
    assert!(recovered.success() >= 0.99, "{:?}", recovered.failures());
}

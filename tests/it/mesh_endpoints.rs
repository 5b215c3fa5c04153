//! Some of the endpoints fail or are slow, and callers do not notice.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tests::hop_service::Behavior;

use crate::mesh_fixture::{Caller, Load, Verdict, hops, measured, three, turn};

#[tokio::test]
async fn an_endpoint_that_fails_every_call_at_once_costs_no_call_and_receives_almost_none() {
    let _turn = turn().await;
    failing_at_once(Duration::from_secs(6)).await;
}

#[tokio::test]
#[ignore = "takes a minute: `make load`"]
async fn an_endpoint_that_fails_every_call_at_once_costs_no_call_for_long() {
    let _turn = turn().await;
    failing_at_once(Duration::from_secs(60)).await;
}

async fn failing_at_once(lasting: Duration) {
    let hops = hops();
    let all = three(&hops, &[]).await;
    let bad = &all[0];
    bad.set_behavior(Behavior {
        refuse: true,
        ..Behavior::default()
    })
    .await;
    let caller = Caller::new(&hops, &all);
    caller.connected(3).await;

    let calling = caller.clone();
    let load = Load::start(200, move || {
        let caller = calling.clone();
        async move { caller.list().await }
    });
    load.go_on_for(Duration::from_secs(1)).await;
    let first = bad.stats().await.started;
    load.go_on_for(lasting).await;
    let calls = load.stop().await;
    let later = bad.stats().await.started - first;
    let share = later as f64 / calls.since(Duration::from_secs(1)).len() as f64;
    println!(
        "one of three fails at once: {} calls, success {:.4} %, the bad one got {first} in the first second, then {:.2} %",
        calls.len(),
        calls.success() * 100.0,
        share * 100.0,
    );
    assert!(calls.success() >= 0.9999, "{:?}", calls.failures());
    assert!(first > 0, "it was tried");
    assert!(share < 0.02, "{later} calls went to the bad one");
}

#[tokio::test]
async fn an_endpoint_that_is_ten_times_slower_gets_few_of_the_calls() {
    let _turn = turn().await;
    ten_times_slower(Duration::from_secs(6), Verdict::Counts)
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "takes a minute: `make load`"]
async fn an_endpoint_that_is_ten_times_slower_keeps_the_latency_low_over_a_long_load() {
    let _turn = turn().await;
    measured(|| ten_times_slower(Duration::from_secs(60), Verdict::Times)).await;
}

async fn ten_times_slower(lasting: Duration, verdict: Verdict) -> anyhow::Result<()> {
    let hops = hops();
    let all = three(&hops, &[]).await;
    let work = |work_ms| Behavior {
        work_ms,
        ..Behavior::default()
    };
    for hop in &all {
        hop.set_behavior(work(60)).await;
    }
    let caller = Caller::new(&hops, &all);
    caller.connected(3).await;
    // The slow hop's answers are slow; the latency of the healthy ones at that time is measured by who answered.
    let slow = all[0].address();
    let healthy = Arc::new(Mutex::new(Vec::new()));
    let load = Load::start(75, {
        let healthy = Arc::clone(&healthy);
        move || {
            let (caller, slow, healthy) = (caller.clone(), slow.clone(), Arc::clone(&healthy));
            let due = Instant::now();
            async move {
                if caller.answered_by().await? != slow {
                    healthy.lock().unwrap().push((due, due.elapsed()));
                }
                Ok(())
            }
        }
    });
    load.go_on_for(Duration::from_millis(500)).await;
    all[0].set_behavior(work(600)).await;
    load.go_on_for(Duration::from_secs(1)).await;
    let (known, since) = (load.began.elapsed(), Instant::now());
    let before = all[0].stats().await.started;
    load.go_on_for(lasting).await;
    let by_the_slow = all[0].stats().await.started - before;
    let calls = load.stop().await.since(known);
    assert_eq!(calls.good(), calls.len(), "{:?}", calls.failures());

    let mut healthy: Vec<_> = std::mem::take(&mut *healthy.lock().unwrap());
    healthy.retain(|(due, _)| *due >= since);
    let mut healthy: Vec<_> = healthy.into_iter().map(|(_, took)| took).collect();
    healthy.sort_unstable();
    let healthy = healthy[(healthy.len() - 1) * 99 / 100];
    let overall = calls.quantile(0.99);
    let ratio = overall.as_secs_f64() / healthy.as_secs_f64();
    println!(
        "one of three ten times slower: p99 {overall:.1?}, of the healthy ones alone {healthy:.1?}, {ratio:.2} times; it got {by_the_slow} \
         of {} calls",
        calls.len(),
    );
    // An even spread would be a third.
    assert!(
        by_the_slow as usize * 10 <= calls.len(),
        "{by_the_slow} of {} calls went to the slow one",
        calls.len()
    );
    anyhow::ensure!(verdict == Verdict::Counts || ratio <= 1.5, "{ratio:.2} times");
    Ok(())
}

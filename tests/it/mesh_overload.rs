//! More calls than can be served: served calls still meet their deadlines, and critical calls are preferred.

use std::time::Duration;

use anyhow::ensure;
use tests::{eventually, hop_service::Behavior};
use tonic::Code;

use crate::mesh_fixture::{Caller, Load, Verdict, hops, measured, turn};

/// Concurrency and duration of the work: together 100 calls a second on an idle machine.
const PLACES: usize = 8;
const WORK_MS: u64 = 80;

#[tokio::test]
async fn an_overloaded_server_starts_no_call_that_it_refuses_and_prefers_critical_calls() {
    let _turn = turn().await;
    overload(Duration::from_secs(4), Verdict::Counts).await.unwrap();
}

#[tokio::test]
#[ignore = "takes half a minute: `make load`"]
async fn at_three_times_its_capacity_a_server_serves_nine_tenths_of_it_and_all_critical_calls() {
    let _turn = turn().await;
    measured(|| overload(Duration::from_secs(30), Verdict::Times)).await;
}

async fn overload(lasting: Duration, verdict: Verdict) -> anyhow::Result<()> {
    let hops = hops();
    let hop = hops
        .start(&[("grpc.min_in_flight", "32"), ("grpc.max_in_flight", "128")])
        .await;
    hop.set_behavior(Behavior {
        work_ms: WORK_MS,
        max_concurrent: PLACES,
        ..Behavior::default()
    })
    .await;
    let caller = Caller::new(&hops, [&hop]).within(Duration::from_secs(1));
    caller.connected(1).await;
    for _ in 0..5 {
        // A quiet phase comes first, as in production.
        caller.list().await.unwrap();
        caller.cancel().await.unwrap();
    }
    let (lists, cancels) = (caller.clone(), caller.clone());
    let normal = Load::start(270, move || {
        let caller = lists.clone();
        async move { caller.list().await }
    });
    let critical = Load::start(30, move || {
        let caller = cancels.clone();
        async move { caller.cancel().await }
    });
    // The start of the overload is not measured.
    normal.go_on_for(Duration::from_secs(2)).await;
    let warmed_up = normal.began.elapsed();
    let before = hop.stats().await;
    normal.go_on_for(lasting).await;
    let took = normal.began.elapsed() - warmed_up;
    let after = hop.stats().await;
    let (normal, critical) = tokio::join!(normal.stop(), critical.stop());
    let (normal, critical) = (normal.since(warmed_up), critical.since(warmed_up));
    let goodput = (normal.good() + critical.good()) as f64 / took.as_secs_f64();
    let offered = (normal.len() + critical.len()) as f64 / took.as_secs_f64();
    // A busy machine's timers are late, which makes the work longer than configured.
    let work_s =
        (after.worked_us - before.worked_us) as f64 / 1e6 / (after.finished - before.finished) as f64;
    let capacity = PLACES as f64 / work_s;
    println!(
        "{offered:.0} calls/s at a capacity of {capacity:.0}/s: {goodput:.1}/s answered well ({:.0} %), {:.2} % of the critical ones; \
         p99 {:.0?}, of the critical ones {:.0?}; refused {}, late {}",
        goodput / capacity * 100.0,
        critical.success() * 100.0,
        normal.quantile(0.99),
        critical.quantile(0.99),
        normal.count(Code::ResourceExhausted) + normal.count(Code::Unavailable),
        normal.count(Code::DeadlineExceeded),
    );
    let refused = normal.count(Code::ResourceExhausted) + normal.count(Code::Unavailable);
    assert!(refused > 0, "it was never full");
    assert!(
        critical.success() >= normal.success(),
        "critical ones {:?}, others {:?}",
        critical.failures(),
        normal.failures()
    );
    // Refused calls were never started: every started call has ended, and only admitted calls were started.
    eventually(Duration::from_secs(20), || async {
        let stats = hop.stats().await;
        stats.started == stats.finished + stats.cancelled
    })
    .await;
    if verdict == Verdict::Counts {
        return Ok(());
    }
    ensure!(
        critical.success() >= 0.99,
        "critical ones: {:?}",
        critical.failures()
    );
    ensure!(offered >= 2.7 * capacity, "offered {offered:.0}/s");
    ensure!(
        goodput >= 0.9 * capacity,
        "{goodput:.1}/s: {:?}",
        normal.failures()
    );
    Ok(())
}

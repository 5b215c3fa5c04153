//! Relay, consumer, NATS and PostgreSQL are killed again and again during a flow of events. No event is lost,
//! every effect occurs once, and the order within every aggregate is kept.

use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::events_chaos_fixture::{ChaosFixture, ChaosPlan};

#[tokio::test]
async fn a_storm_of_kills_loses_nothing_repeats_nothing_and_keeps_order() {
    run(ChaosPlan {
        events: 2_000,
        aggregates: 80,
        kills: 10,
        within: Duration::from_secs(120),
    })
    .await;
}

#[tokio::test]
#[ignore = "takes minutes; `make chaos` runs it"]
async fn a_long_storm_of_kills_loses_nothing_repeats_nothing_and_keeps_order() {
    run(ChaosPlan {
        events: 50_000,
        aggregates: 2_000,
        kills: 120,
        within: Duration::from_secs(900),
    })
    .await;
}

/// `WEFT_CHAOS_SEED` reproduces a run's kills and pauses.
async fn run(plan: ChaosPlan) {
    let given = std::env::var("WEFT_CHAOS_SEED").ok();
    let seed = given.map_or_else(|| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("seed {seed} (WEFT_CHAOS_SEED)");
    let started = Instant::now();
    let fixture = ChaosFixture::start(&plan).await;
    let kills = fixture.run_with_kills(&plan, StdRng::seed_from_u64(seed)).await;
    let produced_after = started.elapsed();
    fixture.wait_until_consumed(&plan, started).await;
    println!("kills: {kills}");
    println!(
        "events: {} in {produced_after:.0?}, all consumed after {:.0?}",
        plan.events,
        started.elapsed()
    );
    fixture.check(&plan).await;
}

//! Relay, consumer, NATS and PostgreSQL are killed again and again while events flow. Nothing is lost, every effect
//! comes once, and order is kept within every aggregate.

use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::events_storm::{Site, Storm};

#[tokio::test]
async fn a_storm_of_kills_loses_nothing_repeats_nothing_and_keeps_order() {
    run(Storm {
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
    run(Storm {
        events: 50_000,
        aggregates: 2_000,
        kills: 120,
        within: Duration::from_secs(900),
    })
    .await;
}

/// `WEFT_CHAOS_SEED` repeats a run's choice of victims and pauses.
async fn run(storm: Storm) {
    let given = std::env::var("WEFT_CHAOS_SEED").ok();
    let seed = given.map_or_else(|| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("seed {seed} (WEFT_CHAOS_SEED)");
    let started = Instant::now();
    let site = Site::start(&storm).await;
    let rage = site.rage(&storm, StdRng::seed_from_u64(seed)).await;
    let raged = started.elapsed();
    site.settle(&storm, started).await;
    println!("kills: {rage}");
    println!(
        "events: {} in {raged:.0?}, settled after {:.0?}",
        storm.events,
        started.elapsed()
    );
    site.check(&storm).await;
}

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::advance;

use super::*;

const WORK: Duration = Duration::from_millis(20);
const CAPACITY: usize = 100;

/// A process with a capacity of a hundred concurrent calls; further ones queue.
struct Process {
    limit: Limit,
    rng: StdRng,
}

/// The result of several rounds.
struct Summary {
    /// Calls done, as a share of the process's capacity.
    goodput: f64,
    lowest: usize,
    highest: usize,
}

impl Process {
    fn new(min: usize, max: usize) -> Process {
        Process {
            limit: Limit::new(min, max),
            rng: StdRng::seed_from_u64(7),
        }
    }

    /// Serves a demand of concurrent calls, each of which takes half to one and a half times `work`. Callers may
    /// use `share` of the limit.
    async fn serve(&mut self, work: Duration, demand: usize, share: f64, rounds: usize) -> Summary {
        let mut summary = Summary {
            goodput: 0.0,
            lowest: usize::MAX,
            highest: 0,
        };
        let (began, mut done) = (Instant::now(), 0);
        for _ in 0..rounds {
            let available = (self.limit.current() as f64 * share) as usize;
            let in_flight = demand.min(available);
            let queue = (in_flight as f64 / CAPACITY as f64).max(1.0);
            advance(work.mul_f64(queue)).await;
            for _ in 0..in_flight {
                let took = work.mul_f64(queue * self.rng.random_range(0.5..1.5));
                self.limit.record("A/B", took, Outcome::Completed, in_flight);
            }
            if demand > available {
                self.limit.record_rejection();
            }
            done += in_flight;
            summary.lowest = summary.lowest.min(self.limit.current());
            summary.highest = summary.highest.max(self.limit.current());
        }
        let possible = began.elapsed().as_secs_f64() / work.as_secs_f64() * CAPACITY as f64;
        summary.goodput = done as f64 / possible;
        summary
    }
}

#[tokio::test(start_paused = true)]
async fn under_overload_it_holds_near_the_capacity_and_afterwards_it_recovers() {
    let mut process = Process::new(10, 1_000);
    process.serve(WORK, 50, 1.0, 50).await;
    assert_eq!(process.limit.current(), 1_000, "a quiet process takes what comes");
    process.serve(WORK, 900, 1.0, 500).await;
    let held = process.serve(WORK, 900, 1.0, 3_000).await;
    assert!(held.lowest >= CAPACITY * 9 / 10, "{}", held.lowest);
    assert!(held.highest <= CAPACITY * 3, "{}", held.highest);
    assert!(held.goodput > 0.95, "{}", held.goodput);
    // With fast work the limit grows as far as it is used.
    process.serve(WORK / 4, 1_000, 1.0, 8_000).await;
    assert!(
        process.limit.current() >= CAPACITY * 2,
        "{}",
        process.limit.current()
    );
}

#[tokio::test(start_paused = true)]
async fn the_limit_recovers_even_if_callers_may_not_fill_it() {
    let mut process = Process::new(10, 1_000);
    process.serve(WORK, 50, 0.7, 50).await;
    // Another process uses the CPU for a while.
    process.serve(WORK * 20, 900, 0.7, 50).await;
    process.serve(WORK, 900, 0.7, 1_000).await;
    let held = process.serve(WORK, 900, 0.7, 3_000).await;
    assert!(held.goodput > 0.9, "{}", held.goodput);
}

#[tokio::test(start_paused = true)]
async fn a_baseline_that_is_too_short_is_corrected() {
    let mut process = Process::new(10, 1_000);
    // A cache answered before, and no longer does.
    process.serve(WORK / 4, 50, 1.0, 200).await;
    process.serve(WORK, 900, 1.0, 2_000).await;
    let held = process.serve(WORK, 900, 1.0, 3_000).await;
    assert!(held.goodput > 0.9, "{}", held.goodput);
    assert!(held.highest <= CAPACITY * 4, "{}", held.highest);
}

#[tokio::test(start_paused = true)]
async fn it_stays_within_its_bounds_and_a_slow_method_is_no_congestion() {
    let limit = Limit::new(10, 100);
    for round in 0..100_u64 {
        advance(WINDOW).await;
        for call in 0..20_u64 {
            let (method, took) = if call % 2 == 0 {
                ("A/Quick", 10)
            } else {
                ("A/Slow", 900)
            };
            limit.record(
                method,
                Duration::from_millis(took + round % 3),
                Outcome::Completed,
                100,
            );
        }
    }
    assert_eq!(limit.current(), 100);
    for round in 0..100_u64 {
        advance(WINDOW).await;
        for _ in 0..20 {
            limit.record("A/Quick", Duration::from_secs(1 + round), Outcome::Completed, 100);
        }
    }
    assert_eq!(limit.current(), 10);
    // A method that has become slow is accepted as soon as low load allows measuring it.
    for _ in 0..100 {
        advance(WINDOW).await;
        for _ in 0..20 {
            limit.record("A/Quick", Duration::from_secs(1), Outcome::Completed, 2);
        }
    }
    for _ in 0..200 {
        advance(WINDOW).await;
        for _ in 0..20 {
            limit.record(
                "A/Quick",
                Duration::from_secs(1),
                Outcome::Completed,
                limit.current(),
            );
        }
    }
    assert_eq!(limit.current(), 100);
    let fixed = Limit::new(100, 100);
    fixed.record("A/B", Duration::from_secs(60), Outcome::Completed, 100);
    assert_eq!(fixed.current(), 100);
}

#[tokio::test(start_paused = true)]
async fn calls_that_time_out_lower_the_limit_and_fast_calls_raise_it_again() {
    let limit = Limit::new(10, 100);
    let windows = async |took: u64, outcome: Outcome| {
        for _ in 0..200 {
            advance(WINDOW).await;
            for _ in 0..20 {
                limit.record("A/B", Duration::from_millis(took), outcome, limit.current());
            }
        }
        limit.current()
    };
    assert_eq!(windows(10, Outcome::Completed).await, 100);
    assert_eq!(windows(5_000, Outcome::DeadlineExceeded).await, 10);
    assert_eq!(windows(10, Outcome::Completed).await, 100);
}

//! How many calls at once the process works on well, found out by how long they take.
//!
//! Additive increase, multiplicative decrease, as TCP does it: while calls take not much longer than in quiet times, and
//! the limit is in use, it grows by its square root each window; once they take twice as long, it falls by a seventh.
//! Each method has a quiet time of its own, so that a mix of quick and slow methods is not taken for congestion. It
//! follows slower calls only while next to nothing else is worked on: under load it would take the queue for the work.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A window is at least so long, and has at least so many calls.
const WINDOW: Duration = Duration::from_millis(250);
const LEAST_SAMPLES: u32 = 16;
/// Calls that take so many times their quiet time queue somewhere.
const TOLERANCE: f64 = 2.0;
/// Below this a call counts as quick: a scheduler's whim is no congestion. Seconds.
const QUICK: f64 = 0.005;
const DECREASE: f64 = 6.0 / 7.0;
/// The limit grows only when at least this share of it was in use.
const IN_USE: f64 = 0.8;
/// With less than this share of the lower bound in use, calls that take long do so by their nature.
const QUIET: f64 = 0.5;
/// How fast the quiet time follows calls that are quicker, and, in quiet times, calls that are slower.
const FALL: f64 = 0.3;
const RISE: f64 = 0.05;

/// The limit, between its bounds. Begins at the upper one.
pub(super) struct Limit {
    least: f64,
    most: f64,
    current: AtomicUsize,
    record: Mutex<Record>,
}

struct Record {
    limit: f64,
    window: Window,
    /// Seconds that a method takes in quiet times, by its name. Bounded by the contract.
    quiet: HashMap<String, f64>,
}

struct Window {
    began: Instant,
    samples: u32,
    stretch: f64,
    fullest: usize,
}

impl Window {
    fn new() -> Window {
        Window {
            began: Instant::now(),
            samples: 0,
            stretch: 0.0,
            fullest: 0,
        }
    }
}

impl Limit {
    /// Bounds that are the same make a fixed limit.
    pub(super) fn new(least: usize, most: usize) -> Limit {
        Limit {
            least: least.min(most) as f64,
            most: most as f64,
            current: AtomicUsize::new(most),
            record: Mutex::new(Record {
                limit: most as f64,
                window: Window::new(),
                quiet: HashMap::new(),
            }),
        }
    }

    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Learns from a call that has ended while `in_flight` were being worked on.
    pub(super) fn learn(&self, method: &str, took: Duration, in_flight: usize) {
        if self.least >= self.most {
            return;
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = (in_flight as f64) < self.least * QUIET;
        let stretch = record.stretch(method, took.as_secs_f64(), quiet);
        let window = &mut record.window;
        window.samples += 1;
        window.stretch += stretch;
        window.fullest = window.fullest.max(in_flight);
        if window.samples < LEAST_SAMPLES || window.began.elapsed() < WINDOW {
            return;
        }
        let window = std::mem::replace(&mut record.window, Window::new());
        let before = record.limit;
        if window.stretch / f64::from(window.samples) > TOLERANCE {
            // What is in flight may be far below a limit that was never reached.
            record.limit = before.min(window.fullest as f64) * DECREASE;
        } else if window.fullest as f64 >= before * IN_USE {
            record.limit = before + before.sqrt();
        }
        record.limit = record.limit.clamp(self.least, self.most);
        self.current.store(record.limit as usize, Ordering::Relaxed);
        if record.limit < before {
            tracing::debug!(
                limit = record.limit,
                "calls take too long: fewer are taken at once"
            );
        }
    }
}

impl Record {
    /// How many times its quiet time a call took.
    fn stretch(&mut self, method: &str, took: f64, quiet_time: bool) -> f64 {
        let took = took.max(QUICK);
        let Some(quiet) = self.quiet.get_mut(method) else {
            self.quiet.insert(method.to_owned(), took);
            return 1.0;
        };
        let stretch = took / *quiet;
        let pace = match (took < *quiet, quiet_time) {
            (true, _) => FALL,
            (false, true) => RISE,
            (false, false) => 0.0,
        };
        *quiet += (took - *quiet) * pace;
        stretch
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const WORK: Duration = Duration::from_millis(20);
    const CAPACITY: usize = 100;

    /// A process that works on a hundred calls at once and makes the rest wait, under a demand for so many.
    async fn serve(limit: &Limit, demand: usize, rounds: usize) -> usize {
        let mut most = 0;
        for _ in 0..rounds {
            let in_flight = demand.min(limit.current());
            most = most.max(in_flight);
            let took = WORK.mul_f64((in_flight as f64 / CAPACITY as f64).max(1.0));
            advance(took).await;
            for _ in 0..in_flight {
                limit.learn("A/B", took, in_flight);
            }
        }
        most
    }

    #[tokio::test(start_paused = true)]
    async fn under_overload_it_settles_near_the_capacity_and_afterwards_it_recovers() {
        let limit = Limit::new(10, 1_000);
        serve(&limit, 50, 20).await;
        assert_eq!(limit.current(), 1_000, "a quiet process takes what comes");
        serve(&limit, 300, 200).await;
        let settled = limit.current();
        assert!((CAPACITY..=CAPACITY * 5 / 2).contains(&settled), "{settled}");
        // Work that is quick again lets it grow as far as it is used.
        for _ in 0..4_000 {
            advance(Duration::from_millis(20)).await;
            let in_flight = limit.current();
            for _ in 0..20 {
                limit.learn("A/B", WORK, in_flight);
            }
        }
        assert_eq!(limit.current(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn it_never_leaves_its_bounds_and_a_slow_method_is_no_congestion() {
        let limit = Limit::new(10, 100);
        for round in 0..100_u64 {
            advance(WINDOW).await;
            for call in 0..20_u64 {
                let (method, took) = if call % 2 == 0 {
                    ("A/Quick", 10)
                } else {
                    ("A/Slow", 900)
                };
                limit.learn(method, Duration::from_millis(took + round % 3), 100);
            }
        }
        assert_eq!(limit.current(), 100);
        for round in 0..100_u64 {
            advance(WINDOW).await;
            for _ in 0..20 {
                limit.learn("A/Quick", Duration::from_secs(1 + round), 100);
            }
        }
        assert_eq!(limit.current(), 10);
        // What has become slow by its nature is accepted as soon as there is a quiet time to learn it in.
        for _ in 0..400 {
            limit.learn("A/Quick", Duration::from_secs(1), 2);
        }
        for _ in 0..200 {
            advance(WINDOW).await;
            for _ in 0..20 {
                limit.learn("A/Quick", Duration::from_secs(1), limit.current());
            }
        }
        assert_eq!(limit.current(), 100);
        let fixed = Limit::new(100, 100);
        fixed.learn("A/B", Duration::from_secs(60), 100);
        assert_eq!(fixed.current(), 100);
    }
}

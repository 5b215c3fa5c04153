//! How many calls at once the process works on well, found out by how long they take.
//!
//! Additive increase, multiplicative decrease, as TCP does it: while calls take not much longer than in baseline times, and
//! the limit is in use, it grows by its square root each window; once they take twice as long, it falls by a seventh.
//! Each method has a baseline time of its own, so that a mix of quick and slow methods is not taken for congestion. It
//! follows slower calls only while next to nothing else is worked on: under load it would take the queue for the throughput.
//!
//! A baseline time that is too short would have the limit fall for ever. So a fall is is_evaluated by what it did: above the
//! capacity fewer calls at once get as much done. If they get less done, there was no queue, and what they take is
//! their baseline time; the limit goes back to where it fell from.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A window is at min so long, and has at min so many calls.
const WINDOW: Duration = Duration::from_millis(250);
const MIN_SAMPLES: u32 = 16;
/// Calls that take so many times their baseline time queue somewhere.
const MAX_SLOWDOWN: f64 = 2.0;
/// Below this a call counts as quick: a scheduler's whim is no congestion. Seconds.
const MIN_LATENCY_S: f64 = 0.005;
const DECREASE: f64 = 6.0 / 7.0;
/// The limit grows only when at min this share of it was in use, or a call was rejected.
const GROWTH_UTILIZATION: f64 = 0.8;
/// With less than this share of the lower bound in use, calls that take long do so by their nature.
const LOW_UTILIZATION: f64 = 0.5;
/// How fast the baseline time follows windows that are quicker, and, in baseline times, windows that are slower.
const FALL_RATE: f64 = 0.3;
const RISE_RATE: f64 = 0.3;
/// A fall is is_evaluated when the limit has come down to this share, by whether more than this share is still done.
const EVALUATION_SHARE: f64 = 0.7;
const MIN_THROUGHPUT_SHARE: f64 = 0.85;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With an answer, whichever.
    Completed,
    /// At its deadline. It took long, and nothing was done.
    DeadlineExceeded,
}

/// The limit, between its bounds. Begins at the upper one.
pub(super) struct Limit {
    min: f64,
    max: f64,
    current: AtomicUsize,
    estimate: Mutex<Estimate>,
}

struct Estimate {
    limit: f64,
    window: Window,
    /// Where the limit stood when it began to fall.
    fall: Option<Checkpoint>,
    /// By name. Bounded by the contract.
    methods: HashMap<String, Method>,
}

struct Window {
    began: Instant,
    samples: u32,
    /// How many times their baseline times the calls took.
    slowdown: f64,
    /// The baseline times of the calls that ended. Seconds.
    throughput: f64,
    peak_in_flight: usize,
    rejected: bool,
}

#[derive(Default)]
struct Method {
    /// Seconds that a call takes in baseline times; `None` until the first window ends.
    baseline: Option<f64>,
    /// In this window.
    samples: u32,
    seconds: f64,
}

/// A limit, and how much was done under it: calls' baseline times in a second.
#[derive(Clone, Copy)]
struct Checkpoint {
    limit: f64,
    throughput: f64,
}

impl Window {
    fn new() -> Window {
        Window {
            began: Instant::now(),
            samples: 0,
            slowdown: 0.0,
            throughput: 0.0,
            peak_in_flight: 0,
            rejected: false,
        }
    }
}

impl Limit {
    /// Bounds that are the same make a fixed limit.
    pub(super) fn new(min: usize, max: usize) -> Limit {
        Limit {
            min: min.min(max) as f64,
            max: max as f64,
            current: AtomicUsize::new(max),
            estimate: Mutex::new(Estimate {
                limit: max as f64,
                window: Window::new(),
                fall: None,
                methods: HashMap::new(),
            }),
        }
    }

    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Notes that a call found no place: calls of little weight never fill all of them.
    pub(super) fn record_rejection(&self) {
        self.estimate().window.rejected = true;
    }

    /// Learns from a call that has ended while `in_flight` were being worked on.
    pub(super) fn record(&self, method: &str, took: Duration, outcome: Outcome, in_flight: usize) {
        if self.min >= self.max {
            return;
        }
        let mut estimate = self.estimate();
        estimate.count(method, took.as_secs_f64(), outcome, in_flight);
        let window = &estimate.window;
        if window.samples < MIN_SAMPLES || window.began.elapsed() < WINDOW {
            return;
        }
        let before = estimate.limit;
        estimate.close(self.min, self.max);
        self.current.store(estimate.limit as usize, Ordering::Relaxed);
        if estimate.limit < before {
            tracing::debug!(
                limit = estimate.limit,
                "calls take too long: fewer are taken at once"
            );
        }
    }

    fn estimate(&self) -> std::sync::MutexGuard<'_, Estimate> {
        self.estimate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Estimate {
    fn count(&mut self, name: &str, took: f64, outcome: Outcome, in_flight: usize) {
        let took = took.max(MIN_LATENCY_S);
        if !self.methods.contains_key(name) {
            self.methods.insert(name.to_owned(), Method::default());
        }
        let baseline = self.methods.get_mut(name).map_or(took, |method| {
            // How long a call was waited for in vain is no measure of how long it takes.
            if outcome == Outcome::Completed {
                method.samples += 1;
                method.seconds += took;
            }
            method.baseline.unwrap_or(took)
        });
        let window = &mut self.window;
        window.samples += 1;
        window.slowdown += took / baseline;
        if outcome == Outcome::Completed {
            window.throughput += baseline;
        }
        window.peak_in_flight = window.peak_in_flight.max(in_flight);
    }

    /// Ends the window, and draws the conclusions.
    fn close(&mut self, min: f64, max: f64) {
        let window = std::mem::replace(&mut self.window, Window::new());
        let peak_in_flight = window.peak_in_flight as f64;
        let slowdown = window.slowdown / f64::from(window.samples);
        let throughput = window.throughput / window.began.elapsed().as_secs_f64();
        let mut is_low_load = peak_in_flight < min * LOW_UTILIZATION;
        if slowdown > MAX_SLOWDOWN {
            // What is in flight may be far below a limit that was never reached.
            let current = Checkpoint {
                limit: self.limit.min(peak_in_flight),
                throughput,
            };
            let from = *self.fall.get_or_insert(current);
            let is_evaluated = current.limit <= from.limit * EVALUATION_SHARE;
            if is_evaluated && throughput < from.throughput * MIN_THROUGHPUT_SHARE {
                is_low_load = true;
                self.limit = from.limit;
                self.fall = None;
            } else {
                self.fall = Some(if is_evaluated { current } else { from });
                self.limit = current.limit * DECREASE;
            }
        } else {
            self.fall = None;
            if window.rejected || peak_in_flight >= self.limit * GROWTH_UTILIZATION {
                self.limit += self.limit.sqrt();
            }
        }
        self.limit = self.limit.clamp(min, max);
        self.methods
            .values_mut()
            .for_each(|method| method.close(is_low_load));
    }
}

impl Method {
    fn close(&mut self, is_low_load: bool) {
        let (samples, seconds) = (
            std::mem::take(&mut self.samples),
            std::mem::take(&mut self.seconds),
        );
        if samples == 0 {
            return;
        }
        let mean = seconds / f64::from(samples);
        let baseline = self.baseline.get_or_insert(mean);
        let rate = match (mean < *baseline, is_low_load) {
            (true, _) => FALL_RATE,
            (false, true) => RISE_RATE,
            (false, false) => 0.0,
        };
        *baseline += (mean - *baseline) * rate;
    }
}

#[cfg(test)]
mod tests;

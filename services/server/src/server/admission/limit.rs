//! Adaptive limit of concurrent calls, derived from their latency.
//!
//! Additive increase, multiplicative decrease, as in TCP: while calls take not much longer than their baseline,
//! and the limit is in use, it grows by its square root each window; once they take twice as long, it falls by a
//! seventh. Each method has a baseline latency of its own, so that a mix of fast and slow methods is not mistaken
//! for congestion. The baseline follows slower calls only under very low load: otherwise it would include the time
//! in queues.
//!
//! A baseline that is too short would make the limit fall for ever. So a fall is evaluated by its effect: above
//! the capacity, fewer concurrent calls have the same throughput. If the throughput drops, there was no queue, and
//! the current latency is the baseline; the limit returns to where it fell from.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Minimum duration and number of calls of a window.
const WINDOW: Duration = Duration::from_millis(250);
const MIN_SAMPLES: u32 = 16;
/// Calls that take more than this multiple of their baseline are queued somewhere.
const MAX_SLOWDOWN: f64 = 2.0;
/// Latencies are at least this, in seconds, so that scheduling delays do not count as congestion.
const MIN_LATENCY_S: f64 = 0.005;
const DECREASE: f64 = 6.0 / 7.0;
/// The limit grows only when at least this share of it was in use, or a call was rejected.
const GROWTH_UTILIZATION: f64 = 0.8;
/// With less than this share of the lower bound in use, slow calls are slow by nature, not by congestion.
const LOW_UTILIZATION: f64 = 0.5;
/// How fast the baseline follows faster windows, and, under low load, slower windows.
const FALL_RATE: f64 = 0.3;
const RISE_RATE: f64 = 0.3;
/// A fall is evaluated when the limit has dropped to this share; it is undone unless more than this share of the
/// throughput remains.
const EVALUATION_SHARE: f64 = 0.7;
const MIN_THROUGHPUT_SHARE: f64 = 0.85;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With any response.
    Completed,
    /// At its deadline: it took long, without a result.
    DeadlineExceeded,
}

/// The limit, between its bounds. It starts at the upper one.
pub(super) struct Limit {
    min: f64,
    max: f64,
    current: AtomicUsize,
    estimate: Mutex<Estimate>,
}

struct Estimate {
    limit: f64,
    window: Window,
    /// The limit and throughput when the fall began.
    fall: Option<Checkpoint>,
    /// By method name; bounded by the contract.
    methods: HashMap<String, Method>,
}

struct Window {
    began: Instant,
    samples: u32,
    /// Sum of the calls' latencies, each divided by its baseline.
    slowdown: f64,
    /// Sum of the baselines of the completed calls, in seconds.
    completed_s: f64,
    peak_in_flight: usize,
    rejected: bool,
}

#[derive(Default)]
struct Method {
    /// Latency without load, in seconds; `None` until the first window ends.
    baseline: Option<f64>,
    /// In this window.
    samples: u32,
    seconds: f64,
}

/// A limit and its throughput: seconds of baseline latency completed per second.
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
            completed_s: 0.0,
            peak_in_flight: 0,
            rejected: false,
        }
    }
}

impl Limit {
    /// Equal bounds make a fixed limit.
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

    /// Records a rejection: less critical calls never use the whole limit.
    pub(super) fn record_rejection(&self) {
        self.estimate().window.rejected = true;
    }

    /// Records a call that ended while `in_flight` calls were in progress.
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
            tracing::debug!(limit = estimate.limit, "admission limit lowered");
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
            // A call that timed out says nothing about the method's baseline.
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
            window.completed_s += baseline;
        }
        window.peak_in_flight = window.peak_in_flight.max(in_flight);
    }

    /// Ends the window and adjusts the limit.
    fn close(&mut self, min: f64, max: f64) {
        let window = std::mem::replace(&mut self.window, Window::new());
        let peak_in_flight = window.peak_in_flight as f64;
        let slowdown = window.slowdown / f64::from(window.samples);
        let throughput = window.completed_s / window.began.elapsed().as_secs_f64();
        let mut is_low_load = peak_in_flight < min * LOW_UTILIZATION;
        if slowdown > MAX_SLOWDOWN {
            // The calls in flight may be far below a limit that was never reached.
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

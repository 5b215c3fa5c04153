//! How many calls at once the process works on well, found out by how long they take.
//!
//! Additive increase, multiplicative decrease, as TCP does it: while calls take not much longer than in quiet times, and
//! the limit is in use, it grows by its square root each window; once they take twice as long, it falls by a seventh.
//! Each method has a quiet time of its own, so that a mix of quick and slow methods is not taken for congestion. It
//! follows slower calls only while next to nothing else is worked on: under load it would take the queue for the work.
//!
//! A quiet time that is too short would have the limit fall for ever. So a fall is judged by what it did: above the
//! capacity fewer calls at once get as much done. If they get less done, there was no queue, and what they take is
//! their quiet time; the limit goes back to where it fell from.

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
/// The limit grows only when at least this share of it was in use, or a call was refused.
const IN_USE: f64 = 0.8;
/// With less than this share of the lower bound in use, calls that take long do so by their nature.
const QUIET: f64 = 0.5;
/// How fast the quiet time follows windows that are quicker, and, in quiet times, windows that are slower.
const FALL: f64 = 0.3;
const RISE: f64 = 0.3;
/// A fall is judged when the limit has come down to this share, by whether more than this share is still done.
const JUDGED: f64 = 0.7;
const STILL_DONE: f64 = 0.85;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With an answer, whichever.
    Ended,
    /// At its deadline. It took long, and nothing was done.
    OutOfTime,
}

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
    /// Where the limit stood when it began to fall.
    fall: Option<Stand>,
    /// By name. Bounded by the contract.
    methods: HashMap<String, Method>,
}

struct Window {
    began: Instant,
    samples: u32,
    /// How many times their quiet times the calls took.
    stretch: f64,
    /// The quiet times of the calls that ended. Seconds.
    work: f64,
    fullest: usize,
    refused: bool,
}

#[derive(Default)]
struct Method {
    /// Seconds that a call takes in quiet times; `None` until the first window ends.
    quiet: Option<f64>,
    /// In this window.
    samples: u32,
    seconds: f64,
}

/// A limit, and how much was done under it: calls' quiet times in a second.
#[derive(Clone, Copy)]
struct Stand {
    limit: f64,
    work: f64,
}

impl Window {
    fn new() -> Window {
        Window {
            began: Instant::now(),
            samples: 0,
            stretch: 0.0,
            work: 0.0,
            fullest: 0,
            refused: false,
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
                fall: None,
                methods: HashMap::new(),
            }),
        }
    }

    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Notes that a call found no place: calls of little weight never fill all of them.
    pub(super) fn refused(&self) {
        self.record().window.refused = true;
    }

    /// Learns from a call that has ended while `in_flight` were being worked on.
    pub(super) fn learn(&self, method: &str, took: Duration, ending: Ending, in_flight: usize) {
        if self.least >= self.most {
            return;
        }
        let mut record = self.record();
        record.count(method, took.as_secs_f64(), ending, in_flight);
        let window = &record.window;
        if window.samples < LEAST_SAMPLES || window.began.elapsed() < WINDOW {
            return;
        }
        let before = record.limit;
        record.close(self.least, self.most);
        self.current.store(record.limit as usize, Ordering::Relaxed);
        if record.limit < before {
            tracing::debug!(
                limit = record.limit,
                "calls take too long: fewer are taken at once"
            );
        }
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn count(&mut self, name: &str, took: f64, ending: Ending, in_flight: usize) {
        let took = took.max(QUICK);
        if !self.methods.contains_key(name) {
            self.methods.insert(name.to_owned(), Method::default());
        }
        let quiet = self.methods.get_mut(name).map_or(took, |method| {
            // How long a call was waited for in vain is no measure of how long it takes.
            if ending == Ending::Ended {
                method.samples += 1;
                method.seconds += took;
            }
            method.quiet.unwrap_or(took)
        });
        let window = &mut self.window;
        window.samples += 1;
        window.stretch += took / quiet;
        if ending == Ending::Ended {
            window.work += quiet;
        }
        window.fullest = window.fullest.max(in_flight);
    }

    /// Ends the window, and draws the conclusions.
    fn close(&mut self, least: f64, most: f64) {
        let window = std::mem::replace(&mut self.window, Window::new());
        let fullest = window.fullest as f64;
        let stretch = window.stretch / f64::from(window.samples);
        let work = window.work / window.began.elapsed().as_secs_f64();
        let mut at_rest = fullest < least * QUIET;
        if stretch > TOLERANCE {
            // What is in flight may be far below a limit that was never reached.
            let now = Stand {
                limit: self.limit.min(fullest),
                work,
            };
            let from = *self.fall.get_or_insert(now);
            let judged = now.limit <= from.limit * JUDGED;
            if judged && work < from.work * STILL_DONE {
                at_rest = true;
                self.limit = from.limit;
                self.fall = None;
            } else {
                self.fall = Some(if judged { now } else { from });
                self.limit = now.limit * DECREASE;
            }
        } else {
            self.fall = None;
            if window.refused || fullest >= self.limit * IN_USE {
                self.limit += self.limit.sqrt();
            }
        }
        self.limit = self.limit.clamp(least, most);
        self.methods.values_mut().for_each(|method| method.close(at_rest));
    }
}

impl Method {
    fn close(&mut self, at_rest: bool) {
        let (samples, seconds) = (
            std::mem::take(&mut self.samples),
            std::mem::take(&mut self.seconds),
        );
        if samples == 0 {
            return;
        }
        let mean = seconds / f64::from(samples);
        let quiet = self.quiet.get_or_insert(mean);
        let pace = match (mean < *quiet, at_rest) {
            (true, _) => FALL,
            (false, true) => RISE,
            (false, false) => 0.0,
        };
        *quiet += (mean - *quiet) * pace;
    }
}

#[cfg(test)]
mod tests;

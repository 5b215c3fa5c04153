//! Takes an endpoint that keeps failing out of rotation, and tries it again with one call.
//!
//! ```text
//! closed --7 failures in a row, or half of the last 10 s--> ejected (1 s, doubling to 60 s)
//! ejected --time is up--> probing: one call --good--> closed
//!                                           --bad---> ejected, longer
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::retry::backoff::jitter;

const CONSECUTIVE: u32 = 7;
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer calls than this say nothing about a rate.
const LEAST_CALLS: u32 = 20;
const FAILURE_RATE: f64 = 0.5;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// The method of an ejection that followed another.
const PROBE: &str = "probe";
/// After this long without an ejection the next one is a first one again.
const FORGIVEN: Duration = Duration::from_secs(60);

/// How many endpoints of a channel are ejected, so that at least half of them (and one) remain.
#[derive(Debug, Default)]
pub(crate) struct Ejections {
    connected: AtomicUsize,
    ejected: AtomicUsize,
}

impl Ejections {
    /// Tells how many endpoints are connected now, ejected ones included.
    pub(crate) fn set_connected(&self, connected: usize) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        let most = self.connected.load(Ordering::Relaxed) / 2;
        let more = |ejected: usize| (ejected < most).then_some(ejected + 1);
        self.ejected
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    fn give_back(&self) {
        self.ejected.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One endpoint's breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    ejections: Arc<Ejections>,
    state: State,
    consecutive: u32,
    window: Window,
    /// Ejections in a row, which the next one's length follows from.
    row: u32,
    readmitted: Option<Instant>,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    Nothing,
    Ejected,
    /// It would have been ejected, but too many others are. Told once in a window.
    Unenforced {
        /// How it was found out, as gRFC A91 names it.
        method: &'static str,
    },
}

/// What the breaker does with calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// Calls pass.
    Closed,
    /// No call passes.
    Ejected {
        /// Until then.
        until: Instant,
        /// How it was found out, as gRFC A91 names it.
        method: &'static str,
        /// What was counted.
        reason: String,
    },
    /// One call is on its way to find out.
    Probing {
        /// What was counted before the ejection.
        reason: String,
    },
}

/// Whether a call may go to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Open,
    /// The endpoint's time is up: one call should find out.
    ProbeDue,
    Shut,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    calls: u32,
    failures: u32,
    /// That the endpoint stays although it should go was told.
    told: bool,
}

impl Breaker {
    pub(crate) fn new(ejections: Arc<Ejections>) -> Breaker {
        Breaker {
            ejections,
            state: State::Closed,
            consecutive: 0,
            window: Window::new(),
            row: 0,
            readmitted: None,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn admission(&self, now: Instant) -> Admission {
        match &self.state {
            State::Closed => Admission::Open,
            State::Ejected { until, .. } if *until <= now => Admission::ProbeDue,
            State::Ejected { .. } | State::Probing { .. } => Admission::Shut,
        }
    }

    /// Claims the one probe; `false` when another call was faster.
    pub(crate) fn begin_probe(&mut self) -> bool {
        match &self.state {
            State::Ejected { until, reason, .. } if *until <= Instant::now() => {
                self.state = State::Probing {
                    reason: reason.clone(),
                };
                true
            }
            _ => false,
        }
    }

    /// A probe ended without telling anything: the next call may try.
    pub(crate) fn abandon_probe(&mut self) {
        if let State::Probing { reason } = &self.state {
            self.state = State::Ejected {
                until: Instant::now(),
                method: PROBE,
                reason: reason.clone(),
            };
        }
    }

    /// Returns whether the endpoint was readmitted for this.
    pub(crate) fn succeeded(&mut self) -> bool {
        let readmitted = matches!(self.state, State::Probing { .. });
        if readmitted {
            self.ejections.give_back();
            self.state = State::Closed;
            self.readmitted = Some(Instant::now());
            self.window.restart();
        }
        self.consecutive = 0;
        self.window.add(false);
        readmitted
    }

    pub(crate) fn failed(&mut self) -> Consequence {
        self.consecutive += 1;
        self.window.add(true);
        match &self.state {
            State::Ejected { .. } => Consequence::Nothing,
            State::Probing { .. } => self.eject(PROBE, "the probe failed".to_owned()),
            State::Closed => match self.verdict() {
                None => Consequence::Nothing,
                Some((method, reason)) if self.ejections.take() => {
                    if self.readmitted.is_some_and(|then| then.elapsed() > FORGIVEN) {
                        self.row = 0;
                    }
                    self.eject(method, reason)
                }
                Some(_) if std::mem::replace(&mut self.window.told, true) => Consequence::Nothing,
                Some((method, _)) => Consequence::Unenforced { method },
            },
        }
    }

    /// By what method the endpoint was found out, and what was counted.
    fn verdict(&self) -> Option<(&'static str, String)> {
        let Window { calls, failures, .. } = self.window;
        if self.consecutive >= CONSECUTIVE {
            let reason = format!("{} failures in a row", self.consecutive);
            return Some(("consecutive_failures", reason));
        }
        let rate = f64::from(failures) / f64::from(calls.max(1));
        (calls >= LEAST_CALLS && rate >= FAILURE_RATE).then(|| {
            let reason = format!("{failures} of {calls} calls failed");
            ("failure_percentage", reason)
        })
    }

    fn eject(&mut self, method: &'static str, reason: String) -> Consequence {
        let length = SHORTEST * 2_u32.saturating_pow(self.row.min(16));
        self.row += 1;
        self.state = State::Ejected {
            until: Instant::now() + jitter(length.min(LONGEST)),
            method,
            reason,
        };
        Consequence::Ejected
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if self.state != State::Closed {
            self.ejections.give_back();
        }
    }
}

impl Window {
    fn new() -> Window {
        Window {
            began: Instant::now(),
            calls: 0,
            failures: 0,
            told: false,
        }
    }

    fn restart(&mut self) {
        *self = Window::new();
    }

    fn add(&mut self, failed: bool) {
        if self.began.elapsed() > WINDOW {
            self.restart();
        }
        self.calls += 1;
        self.failures += u32::from(failed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn breakers(count: usize) -> Vec<Breaker> {
        let ejections = Arc::new(Ejections::default());
        ejections.set_connected(count);
        (0..count).map(|_| Breaker::new(Arc::clone(&ejections))).collect()
    }

    fn eject(breaker: &mut Breaker) -> bool {
        (0..CONSECUTIVE).any(|_| breaker.failed() == Consequence::Ejected)
    }

    #[tokio::test(start_paused = true)]
    async fn seven_failures_in_a_row_eject_and_a_good_probe_readmits() {
        let mut two = breakers(2);
        let breaker = &mut two[0];
        for _ in 1..CONSECUTIVE {
            assert_eq!(breaker.failed(), Consequence::Nothing);
        }
        assert_eq!(breaker.failed(), Consequence::Ejected);
        assert_eq!(breaker.admission(Instant::now()), Admission::Shut);
        advance(Duration::from_millis(1_201)).await;
        assert_eq!(breaker.admission(Instant::now()), Admission::ProbeDue);
        assert!(breaker.begin_probe());
        assert!(!breaker.begin_probe(), "one probe at a time");
        assert_eq!(breaker.admission(Instant::now()), Admission::Shut);
        breaker.succeeded();
        assert_eq!(breaker.state(), &State::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn every_bad_probe_doubles_the_ejection_to_a_minute() {
        let mut two = breakers(2);
        let breaker = &mut two[0];
        assert!(eject(breaker));
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            advance(Duration::from_secs(80)).await;
            assert!(breaker.begin_probe());
            assert_eq!(breaker.failed(), Consequence::Ejected);
            let State::Ejected { until, .. } = breaker.state() else {
                panic!("ejected")
            };
            let length = until.duration_since(Instant::now()).as_secs_f64();
            assert!(
                (0.8 * f64::from(expected)..=1.2 * f64::from(expected)).contains(&length),
                "{length} s"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_the_calls_failing_ejects_without_a_row() {
        let mut two = breakers(2);
        let ejected = (0..LEAST_CALLS).any(|_| {
            two[0].succeeded();
            two[0].failed() == Consequence::Ejected
        });
        assert!(ejected);
        assert!(matches!(two[0].state(), State::Ejected { reason, .. } if reason == "10 of 20 calls failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn at_least_half_of_the_endpoints_remain_and_a_single_one_always() {
        for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
            let mut all = breakers(count);
            assert_eq!(
                all.iter_mut()
                    .filter_map(|breaker| eject(breaker).then_some(()))
                    .count(),
                most,
                "of {count}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_disappears_makes_room_for_another_ejection() {
        let mut three = breakers(3);
        assert!(eject(&mut three[0]));
        assert!(!eject(&mut three[1]));
        drop(three.remove(0));
        assert!(eject(&mut three[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_tells_nothing_leaves_room_for_the_next() {
        let mut two = breakers(2);
        eject(&mut two[0]);
        advance(Duration::from_secs(2)).await;
        assert!(two[0].begin_probe());
        two[0].abandon_probe();
        assert_eq!(two[0].admission(Instant::now()), Admission::ProbeDue);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejection_that_is_one_too_many_is_told_once_in_a_window() {
        let mut two = breakers(2);
        assert!(eject(&mut two[0]));
        for _ in 0..2 {
            let told: Vec<_> = (0..20)
                .map(|_| two[1].failed())
                .filter(|consequence| *consequence != Consequence::Nothing)
                .collect();
            let method = "consecutive_failures";
            assert_eq!(told, [Consequence::Unenforced { method }]);
            advance(2 * WINDOW).await;
        }
    }
}

//! The circuit breaker of an endpoint: ejects an endpoint that keeps failing, and later probes it with one call.
//!
//! ```text
//! closed --7 failures in a row, or half of the calls of 10 s--> ejected (1 s, doubling to 60 s)
//! ejected --time is up--> probing: one call --success------------> closed
//!                                           --failure, or 5 s----> ejected, longer
//! ```
//!
//! A configured [outlier detection](crate::outlier_detection) replaces the second rule:
//!
//! ```text
//! closed --a sweep finds an outlier--> ejected (30 s, 60 s, ... 5 min) --a sweep finds the time over--> closed
//! ```
//!
//! The probe is a user's call if its method may be repeated, is unary, and times out within the probe's timeout;
//! otherwise it is a `grpc.health.v1.Health/Check`. Only the probe's own result counts: calls that were sent
//! before the ejection say nothing about the present state.

mod ejections;
mod outlier;

use std::{sync::Arc, time::Duration};

pub(crate) use ejections::Ejections;
use tokio::time::Instant;

use crate::{outlier_detection::Counts, retry::backoff::jitter};

const CONSECUTIVE_FAILURES: u32 = 7;
const WINDOW: Duration = Duration::from_secs(10);
/// The failure rate counts from this number of calls.
const MIN_CALLS: u32 = 20;
const FAILURE_RATE: f64 = 0.5;
const MIN_EJECTION: Duration = Duration::from_secs(1);
const MAX_EJECTION: Duration = Duration::from_secs(60);
/// The detection method reported for an ejection by a failed probe.
const PROBE_METHOD: &str = "probe";
const MAX_EJECTION_OVERFLOW: &str = "max_ejection_overflow";
/// After this long without an ejection the next one lasts `MIN_EJECTION` again.
const RESET_AFTER: Duration = Duration::from_secs(60);
/// A probe without an answer fails after this.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// One endpoint's breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    ejections: Arc<Ejections>,
    state: State,
    consecutive: u32,
    window: Window,
    /// The results since the last sweep of the outlier detection.
    results: Counts,
    /// Determines the length of the next ejection.
    ejections_in_a_row: u32,
    /// Determines the length of the next ejection as an outlier.
    multiplier: u32,
    readmitted: Option<Instant>,
    /// Number of probes so far; identifies a probe.
    probes: u64,
}

/// One probe of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe(u64);

/// The effect of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    Nothing,
    Ejected,
    /// The endpoint should be ejected, and is not. If that is because too many others are, the breaker's own rules
    /// report it once in a window.
    Unenforced {
        /// The detection method, as gRFC A91 names it.
        method: &'static str,
        /// Why the endpoint is not ejected, as gRFC A91 names it.
        reason: &'static str,
    },
}

/// The state of a breaker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// Calls pass.
    Closed,
    /// No call passes.
    Ejected {
        /// When a probe is due, or from when on a sweep readmits the endpoint.
        until: Instant,
        readmission: Readmission,
        /// The detection method, as gRFC A91 names it.
        method: &'static str,
        /// The counts that caused the ejection.
        reason: String,
    },
    /// One probe is in flight.
    Probing {
        /// The counts that caused the ejection.
        reason: String,
        /// The probe in flight.
        probe: Probe,
        /// When the probe fails without an answer.
        until: Instant,
    },
}

/// What ends an ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readmission {
    /// A successful probe.
    Probe,
    /// A sweep of the outlier detection.
    Sweep {
        /// When the endpoint was ejected.
        since: Instant,
    },
}

/// Whether a call may go to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Allowed,
    /// The ejection is over: one call should be sent as a probe.
    ProbeDue,
    /// The probe has exceeded its timeout: call [`Breaker::expire_probe`].
    ProbeOverdue,
    Denied,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    calls: u32,
    failures: u32,
    /// [`Consequence::Unenforced`] was reported.
    reported: bool,
}

impl Breaker {
    pub(crate) fn new(ejections: Arc<Ejections>) -> Breaker {
        Breaker {
            ejections,
            state: State::Closed,
            consecutive: 0,
            window: Window::new(),
            results: Counts::default(),
            ejections_in_a_row: 0,
            multiplier: 0,
            readmitted: None,
            probes: 0,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn admission(&self, now: Instant) -> Admission {
        match &self.state {
            State::Closed => Admission::Allowed,
            State::Ejected {
                until,
                readmission: Readmission::Probe,
                ..
            } if *until <= now => Admission::ProbeDue,
            State::Probing { until, .. } if *until <= now => Admission::ProbeOverdue,
            State::Ejected { .. } | State::Probing { .. } => Admission::Denied,
        }
    }

    /// Begins the probe; `None` if none is due or another call was faster.
    pub(crate) fn begin_probe(&mut self) -> Option<Probe> {
        let now = Instant::now();
        match &self.state {
            State::Ejected {
                until,
                readmission: Readmission::Probe,
                reason,
                ..
            } if *until <= now => {
                self.probes += 1;
                let probe = Probe(self.probes);
                self.state = State::Probing {
                    reason: reason.clone(),
                    probe,
                    until: now + PROBE_LIMIT,
                };
                Some(probe)
            }
            _ => None,
        }
    }

    /// Ends a probe without a result: the next call may be the probe.
    pub(crate) fn abandon_probe(&mut self, ended: Probe) {
        if let State::Probing { reason, probe, .. } = &self.state
            && *probe == ended
        {
            self.state = State::Ejected {
                until: Instant::now(),
                readmission: Readmission::Probe,
                method: PROBE_METHOD,
                reason: reason.clone(),
            };
        }
    }

    /// Fails a probe that has exceeded its timeout.
    pub(crate) fn expire_probe(&mut self) -> Consequence {
        match &self.state {
            State::Probing { until, .. } if *until <= Instant::now() => {
                let text = format!("the probe had no answer for {} s", PROBE_LIMIT.as_secs());
                self.eject(PROBE_METHOD, text)
            }
            _ => Consequence::Nothing,
        }
    }

    /// Records a success. Returns whether it readmitted the endpoint.
    pub(crate) fn record_success(&mut self, probe: Option<Probe>) -> bool {
        let readmitted = self.is_probed_by(probe);
        if readmitted {
            self.readmit();
        }
        if self.state == State::Closed {
            self.consecutive = 0;
            self.window.add(false);
            self.results.add(false);
        }
        readmitted
    }

    /// Records a health check that reported SERVING, which proves less than a successful call: the next failure
    /// ejects the endpoint again. Returns whether it readmitted the endpoint.
    pub(crate) fn health_check_succeeded(&mut self, probe: Probe) -> bool {
        let readmitted = self.is_probed_by(Some(probe));
        if readmitted {
            self.readmit();
            self.consecutive = CONSECUTIVE_FAILURES - 1;
        }
        readmitted
    }

    fn readmit(&mut self) {
        self.ejections.release();
        self.state = State::Closed;
        self.readmitted = Some(Instant::now());
        self.window.restart();
    }

    fn is_probed_by(&self, candidate: Option<Probe>) -> bool {
        matches!(&self.state, State::Probing { probe, .. } if Some(*probe) == candidate)
    }

    /// Records a failure, and ejects the endpoint if it is one too many.
    pub(crate) fn record_failure(&mut self, probe: Option<Probe>) -> Consequence {
        if self.is_probed_by(probe) {
            return self.eject(PROBE_METHOD, "the probe failed".to_owned());
        }
        if self.state != State::Closed {
            return Consequence::Nothing;
        }
        self.consecutive += 1;
        self.window.add(true);
        self.results.add(true);
        match self.ejection_cause() {
            None => Consequence::Nothing,
            Some((method, reason)) if self.ejections.try_acquire() => {
                if self.readmitted.is_some_and(|then| then.elapsed() > RESET_AFTER) {
                    self.ejections_in_a_row = 0;
                }
                self.eject(method, reason)
            }
            Some(_) if std::mem::replace(&mut self.window.reported, true) => Consequence::Nothing,
            Some((method, _)) => Consequence::Unenforced {
                method,
                reason: MAX_EJECTION_OVERFLOW,
            },
        }
    }

    /// The detection method and the counts, if the endpoint should be ejected.
    fn ejection_cause(&self) -> Option<(&'static str, String)> {
        let Window { calls, failures, .. } = self.window;
        if self.consecutive >= CONSECUTIVE_FAILURES {
            let reason = format!("{} failures in a row", self.consecutive);
            return Some(("consecutive_failures", reason));
        }
        let rate = f64::from(failures) / f64::from(calls.max(1));
        let failing = calls >= MIN_CALLS && rate >= FAILURE_RATE;
        (failing && self.ejections.failure_rate_ejects()).then(|| {
            let reason = format!("{failures} of {calls} calls failed");
            ("failure_percentage", reason)
        })
    }

    fn eject(&mut self, method: &'static str, reason: String) -> Consequence {
        let length = MIN_EJECTION * 2_u32.saturating_pow(self.ejections_in_a_row.min(16));
        self.ejections_in_a_row += 1;
        self.state = State::Ejected {
            until: Instant::now() + jitter(length.min(MAX_EJECTION)),
            readmission: Readmission::Probe,
            method,
            reason,
        };
        Consequence::Ejected
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if self.state != State::Closed {
            self.ejections.release();
        }
    }
}

impl Window {
    fn new() -> Window {
        Window {
            began: Instant::now(),
            calls: 0,
            failures: 0,
            reported: false,
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
mod tests;

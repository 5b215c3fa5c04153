//! Ejections by a configured outlier detection (gRFC A50).
//!
//! A sweep ejects an outlier, and a later sweep readmits it when its time is over. There is no probe: one call says
//! nothing about an endpoint of which most calls succeed.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::{Breaker, Consequence, Readmission, State};
use crate::outlier_detection::{Counts, Outlier, OutlierDetection};

const ENFORCEMENT_PERCENTAGE: &str = "enforcement_percentage";
/// Stands for an end that the clock cannot represent.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);

impl Breaker {
    /// The results since the last call of this function.
    pub(crate) fn take_results(&mut self) -> Counts {
        std::mem::take(&mut self.results)
    }

    /// Ejects the endpoint as an outlier, with the configured probability. Does nothing if it is already ejected.
    pub(crate) fn eject_outlier(
        &mut self,
        outlier: &Outlier,
        policy: &OutlierDetection,
        now: Instant,
    ) -> Consequence {
        if self.state != State::Closed {
            return Consequence::Nothing;
        }
        let method = outlier.method;
        if rand::rng().random_range(0..100) >= outlier.enforcement_percentage {
            let reason = ENFORCEMENT_PERCENTAGE;
            return Consequence::Unenforced { method, reason };
        }
        if !self.ejections.try_acquire_within(policy.max_ejection_percent()) {
            let reason = super::MAX_EJECTION_OVERFLOW;
            return Consequence::Unenforced { method, reason };
        }
        self.multiplier = self.multiplier.saturating_add(1);
        self.state = State::Ejected {
            until: end(now, policy.ejection_time(self.multiplier)),
            readmission: Readmission::Sweep { since: now },
            method,
            reason: outlier.reason.clone(),
        };
        Consequence::Ejected
    }

    /// Ends a sweep: readmits the endpoint if its time is over by the present policy, or shortens its next ejection
    /// if it was not ejected. Returns whether it was readmitted.
    pub(crate) fn end_sweep(&mut self, policy: &OutlierDetection, now: Instant) -> bool {
        match &mut self.state {
            State::Closed => self.multiplier = self.multiplier.saturating_sub(1),
            State::Ejected {
                readmission: Readmission::Sweep { since },
                until,
                ..
            } => {
                *until = end(*since, policy.ejection_time(self.multiplier));
                if *until <= now {
                    self.readmit_outlier();
                    return true;
                }
            }
            State::Ejected { .. } | State::Probing { .. } => {}
        }
        false
    }

    /// Forgets all results and ejections of an outlier detection that is no longer configured. Returns whether the
    /// endpoint was readmitted.
    pub(crate) fn end_outlier_detection(&mut self) -> bool {
        self.results = Counts::default();
        self.multiplier = 0;
        let ejected = matches!(
            self.state,
            State::Ejected {
                readmission: Readmission::Sweep { .. },
                ..
            }
        );
        if ejected {
            self.readmit_outlier();
        }
        ejected
    }

    fn readmit_outlier(&mut self) {
        self.readmit();
        self.consecutive = 0;
    }
}

fn end(since: Instant, time: Duration) -> Instant {
    since.checked_add(time).unwrap_or_else(|| since + FOREVER)
}

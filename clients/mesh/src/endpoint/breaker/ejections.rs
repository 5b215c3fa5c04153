//! Limits how many endpoints of a channel are ejected at a time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;

use crate::outlier_detection::OutlierDetection;

/// Without a configured limit at least half of the endpoints remain. Percent.
const MAX_EJECTION_PERCENT: u32 = 50;

/// Counts the ejected endpoints of a channel, and has the policy that limits them.
#[derive(Debug, Default)]
pub(crate) struct Ejections {
    connected: AtomicUsize,
    ejected: AtomicUsize,
    outlier_detection: watch::Sender<Option<Arc<OutlierDetection>>>,
}

impl Ejections {
    pub(crate) fn new(outlier_detection: Option<Arc<OutlierDetection>>) -> Ejections {
        Ejections {
            outlier_detection: watch::Sender::new(outlier_detection),
            ..Ejections::default()
        }
    }

    /// Replaces the policy.
    pub(crate) fn set_outlier_detection(&self, policy: Option<Arc<OutlierDetection>>) {
        self.outlier_detection.send_replace(policy);
    }

    pub(crate) fn outlier_detection(&self) -> Option<Arc<OutlierDetection>> {
        self.outlier_detection.borrow().clone()
    }

    /// The policy and its changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<OutlierDetection>>> {
        self.outlier_detection.subscribe()
    }

    /// Sets the number of connected endpoints, ejected ones included.
    pub(crate) fn set_connected(&self, connected: usize) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether half of an endpoint's calls failing ejects it: unless a policy says by which statistics endpoints
    /// are ejected.
    pub(super) fn failure_rate_ejects(&self) -> bool {
        let policy = self.outlier_detection.borrow();
        !policy.as_ref().is_some_and(|policy| policy.has_algorithm())
    }

    /// Counts one more ejection by the breaker's own rules, unless too many endpoints are ejected.
    pub(super) fn try_acquire(&self) -> bool {
        let configured = self
            .outlier_detection
            .borrow()
            .as_ref()
            .and_then(|policy| policy.max_ejection_percent);
        self.try_acquire_within(configured.unwrap_or(MAX_EJECTION_PERCENT))
    }

    /// Counts one more ejection, unless more than `max_percent` of the connected endpoints would be ejected. One may
    /// always be ejected, and one always remains.
    pub(super) fn try_acquire_within(&self, max_percent: u32) -> bool {
        let connected = self.connected.load(Ordering::Relaxed);
        let max = connected.saturating_mul(max_percent as usize) / 100;
        let max = max.max(1).min(connected.saturating_sub(1));
        let more = |ejected: usize| (ejected < max).then_some(ejected + 1);
        self.ejected
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    pub(super) fn release(&self) {
        self.ejected.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_a_share_but_one_may_be_ejected_and_one_remains() {
        for (connected, percent, most) in [
            (0, 50, 0),
            (1, 100, 0),
            (2, 10, 1),
            (5, 0, 1),
            (5, 39, 1),
            (5, 40, 2),
            (5, 50, 2),
            (5, 100, 4),
            (100, 10, 10),
        ] {
            let ejections = Ejections::default();
            ejections.set_connected(connected);
            let ejected = (0..200).filter(|_| ejections.try_acquire_within(percent)).count();
            assert_eq!(ejected, most, "{percent} % of {connected}");
        }
    }
}

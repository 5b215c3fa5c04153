//! What the repetitions of one call did, booked when the call ends or is given up.

use std::{sync::Arc, time::Duration};

use super::Metrics;
use crate::method::Method;

/// Counted by the layers that repeat a call, and booked when dropped: a call that runs out of time between two
/// attempts counts as well.
#[derive(Debug)]
pub(crate) struct Repetitions {
    metrics: Arc<Metrics>,
    method: Arc<Method>,
    pub(crate) retries: u64,
    pub(crate) transparent: u64,
    pub(crate) hedges: u64,
    pub(crate) waited: Duration,
}

impl Repetitions {
    pub(crate) fn new(metrics: Arc<Metrics>, method: Arc<Method>) -> Repetitions {
        Repetitions {
            metrics,
            method,
            retries: 0,
            transparent: 0,
            hedges: 0,
            waited: Duration::ZERO,
        }
    }
}

impl Drop for Repetitions {
    fn drop(&mut self) {
        let metrics = Arc::clone(&self.metrics);
        metrics.record_repetitions(&self.method.label, self);
    }
}

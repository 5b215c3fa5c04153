//! Counts the repetitions of one call, and records them when the call ends or is abandoned.

use std::{sync::Arc, time::Duration};

use super::Metrics;
use crate::method::Method;

/// Updated by the layers that repeat a call, and recorded when dropped, so that a call that times out between two
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

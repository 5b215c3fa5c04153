//! The 95th percentile of a method's recent latencies.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Number of stored latencies.
const CAPACITY: usize = 128;
/// With fewer latencies there is no percentile.
const MIN_COUNT: usize = 40;
/// The percentile is recomputed after this many observations.
const REFRESH: usize = 16;

/// Recent latencies of one method, as its callers saw them.
#[derive(Debug, Default)]
pub(crate) struct RecentLatencies(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    latencies: Vec<Duration>,
    next: usize,
    since_refresh: usize,
    p95: Option<Duration>,
}

impl RecentLatencies {
    pub(crate) fn record(&self, latency: Duration) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = ring.next;
        if ring.latencies.len() < CAPACITY {
            ring.latencies.push(latency);
        } else {
            ring.latencies[place] = latency;
        }
        ring.next = (place + 1) % CAPACITY;
        ring.since_refresh += 1;
        if ring.latencies.len() >= MIN_COUNT && (ring.p95.is_none() || ring.since_refresh >= REFRESH) {
            let mut sorted = ring.latencies.clone();
            sorted.sort_unstable();
            ring.p95 = Some(sorted[sorted.len() * 95 / 100]);
            ring.since_refresh = 0;
        }
    }

    /// `None` while there are too few latencies.
    pub(crate) fn p95(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).p95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_covers_the_most_recent_latencies() {
        let latencies = RecentLatencies::default();
        (1..MIN_COUNT as u64).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        assert_eq!(latencies.p95(), None);
        latencies.record(Duration::from_millis(MIN_COUNT as u64));
        assert_eq!(latencies.p95(), Some(Duration::from_millis(39)));
        (0..2 * CAPACITY).for_each(|_| latencies.record(Duration::from_millis(7)));
        assert_eq!(latencies.p95(), Some(Duration::from_millis(7)));
    }
}

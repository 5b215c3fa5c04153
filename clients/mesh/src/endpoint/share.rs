//! How many calls in flight an endpoint of the caller's own zone gets in preference to other zones.
//!
//! A caller does not know an endpoint's capacity, which all callers share, so that each finds its share by trial:
//! the share grows while the endpoint accepts calls, and shrinks when the endpoint is overloaded or a call times
//! out (additive increase and multiplicative decrease, as in TCP). Calls beyond the share go to all zones.

use tokio::time::Instant;

/// The share of a new endpoint. Calls.
const INITIAL: f64 = 32.0;
/// Calls.
const MIN: f64 = 1.0;
/// The factor of a decrease.
const DECREASE: f64 = 0.7;
/// The share grows only while at least this part of it is in use.
const USED_SHARE: f64 = 0.5;

/// The share of one endpoint.
#[derive(Debug)]
pub(crate) struct Share {
    calls: f64,
    max: f64,
    /// When the share last shrank. Results of calls that began before do not shrink it again.
    reduced: Option<Instant>,
}

impl Share {
    /// The share never exceeds `max`.
    pub(crate) fn new(max: usize) -> Share {
        let max = (max as f64).max(MIN);
        Share {
            calls: INITIAL.min(max),
            max,
            reduced: None,
        }
    }

    /// Whether one more call in addition to `in_flight` others is within the share.
    pub(crate) fn allows(&self, in_flight: usize) -> bool {
        (in_flight as f64) < self.calls
    }

    /// Records a success while `in_flight` calls were in flight. The share doubles in each round of calls until it
    /// first shrinks, and then grows by one call a round.
    pub(crate) fn grow(&mut self, in_flight: usize) {
        if in_flight as f64 >= self.calls * USED_SHARE {
            let more = if self.reduced.is_none() {
                1.0
            } else {
                1.0 / self.calls
            };
            self.calls = (self.calls + more).min(self.max);
        }
    }

    /// Records that a call that began at `began` was refused or timed out.
    pub(crate) fn shrink(&mut self, began: Instant) {
        if self.reduced.is_none_or(|reduced| reduced < began) {
            self.calls = (self.calls * DECREASE).max(MIN);
            self.reduced = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One round: as many calls at once as the share allows, of which the server accepts `capacity`.
    fn round(share: &mut Share, capacity: usize) -> usize {
        let began = Instant::now();
        let in_flight = (0..).find(|count| !share.allows(*count)).unwrap_or_default();
        for call in 0..in_flight {
            if call < capacity {
                share.grow(in_flight);
            } else {
                share.shrink(began);
            }
        }
        in_flight
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_finds_the_capacity_and_stays_near_it() {
        let mut share = Share::new(512);
        let mut rounds = Vec::new();
        for _ in 0..40 {
            tokio::time::advance(Duration::from_millis(10)).await;
            rounds.push(round(&mut share, 57));
        }
        assert_eq!(rounds[..2], [32, 64], "it doubles at first");
        assert!(
            rounds[4..].iter().all(|calls| (38..=60).contains(calls)),
            "{rounds:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_burst_of_refusals_counts_once() {
        let mut share = Share::new(512);
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(5)).await;
        (0..30).for_each(|_| share.shrink(began));
        assert!(share.allows(22) && !share.allows(23));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_share_does_not_grow() {
        let mut share = Share::new(512);
        (0..1_000).for_each(|_| share.grow(3));
        assert!(!share.allows(32));
    }
}

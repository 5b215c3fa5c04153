//! How many calls in flight an endpoint is preferred for, because it is in the caller's own zone.
//!
//! Nobody knows what an endpoint can do for all its callers together, so that each finds its share by trying: it grows
//! while the endpoint takes what it gets and shrinks when the endpoint refuses for being full or does not answer in
//! time (TCP's additive increase and multiplicative decrease). What is beyond the share goes to all zones.

use tokio::time::Instant;

/// The share of an endpoint that nothing is known of. Calls.
const INITIAL: f64 = 32.0;
const MIN: f64 = 1.0;
const DECREASE: f64 = 0.7;
/// Above this part of the share its growth counts as used.
const USED_SHARE: f64 = 0.5;

#[derive(Debug)]
pub(crate) struct Share {
    calls: f64,
    max: f64,
    /// Calls that began before say nothing about the share after.
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

    /// Whether one more call beside `in_flight` others is within the share.
    pub(crate) fn allows(&self, in_flight: usize) -> bool {
        (in_flight as f64) < self.calls
    }

    /// A call was answered well while `in_flight` were. The share doubles in each round of calls until the first
    /// refusal, and grows by one call from then on.
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

    /// A call that began at `began` was refused, or not answered in time.
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

    /// One round: as many calls at once as the share allows, of which the server takes `capacity`.
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

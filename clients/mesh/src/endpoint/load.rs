//! The cost of a call at an endpoint: peak-EWMA latency times the calls in flight.
//!
//! A slow answer raises the estimate at once; fast answers lower it over ten seconds (Finagle's "peak EWMA").
//! There are three corrections: a single peak counts as at most twice the estimate, because a hiccup would starve
//! an endpoint for seconds; a failure counts as slow, because an endpoint that fails fast would otherwise attract
//! all traffic; and a new endpoint costs more at first, because its caches are cold.

use std::time::Duration;

use tokio::time::Instant;

/// The age at which an observation weighs 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// The estimate before the first answer.
const INITIAL_ESTIMATE: Duration = Duration::from_millis(30);
/// One slow answer counts as at most this many times the current estimate...
const PEAK_FACTOR: f64 = 2.0;
/// ...or of this, if the estimate is lower. Seconds.
const MIN_PEAK: f64 = 0.001;
/// A failure counts as this many times the current estimate...
const PENALTY_FACTOR: f64 = 10.0;
/// ...but at least this, in seconds...
const MIN_PENALTY: f64 = 0.1;
/// ...and at most this, in seconds.
const MAX_PENALTY: f64 = 1.0;
/// How long a new endpoint warms up, and the share of traffic it begins with.
const WARM_UP: Duration = Duration::from_secs(10);
const MIN_WARMTH: f64 = 0.1;

/// The estimated latency of one endpoint.
#[derive(Debug)]
pub(crate) struct Load {
    created_at: Instant,
    seconds: Option<f64>,
    updated: Instant,
}

impl Load {
    /// A cold endpoint.
    pub(crate) fn new() -> Load {
        let now = Instant::now();
        Load {
            created_at: now,
            seconds: None,
            updated: now,
        }
    }

    /// Records a success after `latency`.
    pub(crate) fn record_success(&mut self, latency: Duration) {
        let max = match self.seconds {
            None => f64::MAX,
            Some(_) => self.estimate(Instant::now()).max(MIN_PEAK) * PEAK_FACTOR,
        };
        self.observe(latency.as_secs_f64().min(max));
    }

    /// Records a failure after `latency`.
    pub(crate) fn record_failure(&mut self, latency: Duration) {
        let estimate = self.estimate(Instant::now());
        let penalty = (estimate * PENALTY_FACTOR).clamp(MIN_PENALTY, MAX_PENALTY);
        self.observe(latency.as_secs_f64().max(penalty));
    }

    /// The estimate in seconds, which decays while there are no observations.
    pub(crate) fn estimate(&self, now: Instant) -> f64 {
        match self.seconds {
            None => INITIAL_ESTIMATE.as_secs_f64(),
            Some(seconds) => seconds * decay(now.saturating_duration_since(self.updated)),
        }
    }

    /// The part of an even share that the endpoint should get by its age, 0.1 to 1.
    pub(crate) fn warmth(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.created_at).as_secs_f64() / WARM_UP.as_secs_f64();
        age.clamp(MIN_WARMTH, 1.0)
    }

    /// The cost of one more call in addition to `in_flight` others, comparable between endpoints. An endpoint
    /// without observations gets one call, and no other until that is answered.
    pub(crate) fn cost(&self, in_flight: usize, now: Instant) -> f64 {
        if self.seconds.is_none() && in_flight == 0 {
            return 0.0;
        }
        // With a minimum estimate, calls in flight count even after the estimate has decayed to nothing.
        self.estimate(now).max(1e-6) * (in_flight as f64 + 1.0) / self.warmth(now)
    }

    fn observe(&mut self, seconds: f64) {
        let now = Instant::now();
        self.seconds = Some(match self.seconds {
            Some(old) if seconds < old => {
                let weight = decay(now.saturating_duration_since(self.updated));
                old * weight + seconds * (1.0 - weight)
            }
            _ => seconds,
        });
        self.updated = now;
    }
}

fn decay(age: Duration) -> f64 {
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_row_of_peaks_counts_at_once_and_fades_over_the_decay() {
        let mut load = Load::new();
        load.record_success(MS);
        load.record_success(100 * MS);
        assert_eq!(load.estimate(Instant::now()), 0.002, "one may be a hiccup");
        (0..6).for_each(|_| load.record_success(100 * MS));
        assert_eq!(load.estimate(Instant::now()), 0.1);
        for _ in 0..10 {
            advance(Duration::from_secs(1)).await;
            load.record_success(MS);
        }
        let left = load.estimate(Instant::now());
        assert!(
            (0.03..0.05).contains(&left),
            "a tenth of a second has decayed to {left} s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failing_fast_costs_more_than_answering_slowly() {
        let (mut slow, mut broken) = (Load::new(), Load::new());
        slow.record_success(50 * MS);
        broken.record_failure(Duration::ZERO);
        let now = Instant::now();
        assert!(broken.cost(0, now) > slow.cost(0, now));
        (0..10).for_each(|_| broken.record_failure(Duration::ZERO));
        assert_eq!(broken.estimate(Instant::now()), MAX_PENALTY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_endpoint_is_eased_in() {
        let load = Load::new();
        assert_eq!(load.warmth(Instant::now()), 0.1);
        advance(Duration::from_secs(5)).await;
        assert_eq!(load.warmth(Instant::now()), 0.5);
        advance(Duration::from_secs(60)).await;
        assert_eq!(load.warmth(Instant::now()), 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_endpoint_gets_one_call_to_become_known() {
        let (unknown, mut known) = (Load::new(), Load::new());
        known.record_success(MS);
        let now = Instant::now();
        assert!(unknown.cost(0, now) < known.cost(0, now));
        assert!(unknown.cost(1, now) > known.cost(0, now));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_in_flight_raise_the_cost() {
        let mut load = Load::new();
        load.record_success(MS);
        let now = Instant::now();
        assert!((load.cost(3, now) / load.cost(0, now) - 4.0).abs() < 1e-9);
    }
}

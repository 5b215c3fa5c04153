//! How slow an endpoint is compared with the usual latency of the methods that it serves.
//!
//! The [load](super::load) estimate remembers a single slow answer for seconds. That spreads calls well among
//! equal endpoints, but does not distinguish an endpoint that is slow from one that was slow once, so that a slow
//! one looks cheap whenever the others have had a hiccup. This score averages many answers, and does not decay
//! while there are none.
//!
//! Latencies are compared as logarithms, each with the baseline of its own method: an endpoint that serves
//! expensive methods is not slow, and where a method's latencies vary widely, a difference means less.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Added to every latency, because much smaller differences are noise of the machine. Seconds.
const NOISE_FLOOR: f64 = 0.002;
/// The unit of the excess is this many times the baseline...
const SLOW_FACTOR: f64 = 3.0;
/// ...or, if that is more, this many times the method's own spread.
const SLOW_SPREADS: f64 = 3.0;
/// The weight of one answer in a method's baseline, after the first 64 answers.
const BASELINE_WEIGHT: f64 = 1.0 / 64.0;
/// The weight of one answer in an endpoint's score, while the score is not old.
const ANSWER_WEIGHT: f64 = 1.0 / 4.0;
/// Answers closer together than this weigh less: calls that were delayed together count about once.
const BURST: Duration = Duration::from_millis(100);
/// An answer weighs more if the score is old: a score of this age weighs 1/e.
const DECAY: Duration = Duration::from_secs(10);

/// The usual latency of one method of one service. Of two concurrent updates one may be lost, which is harmless.
#[derive(Debug, Default)]
pub(crate) struct Baseline {
    answers: AtomicU32,
    /// Averages of the latencies' logarithms and of their distances from that average, as the bits of an `f64`.
    center: AtomicU64,
    spread: AtomicU64,
}

impl Baseline {
    /// How far a latency is above the baseline, in units of the difference that counts as slow.
    pub(crate) fn excess(&self, latency: Duration) -> f64 {
        self.scaled((latency.as_secs_f64() + NOISE_FLOOR).ln() - self.center())
    }

    /// Adds a latency to the baseline and returns its excess over the previous baseline.
    fn record(&self, latency: Duration) -> f64 {
        let answers = self.answers.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let weight = (1.0 / f64::from(answers)).max(BASELINE_WEIGHT);
        let (center, spread) = (self.center(), self.spread());
        let logarithm = (latency.as_secs_f64() + NOISE_FLOOR).ln();
        if answers == 1 {
            self.center.store(logarithm.to_bits(), Ordering::Relaxed);
            return 0.0;
        }
        let distance = logarithm - center;
        let excess = self.scaled(distance);
        let center = center + weight * distance;
        let spread = spread + weight * (distance.abs() - spread);
        self.center.store(center.to_bits(), Ordering::Relaxed);
        self.spread.store(spread.to_bits(), Ordering::Relaxed);
        excess
    }

    fn scaled(&self, distance: f64) -> f64 {
        distance / SLOW_FACTOR.ln().max(SLOW_SPREADS * self.spread())
    }

    fn center(&self) -> f64 {
        f64::from_bits(self.center.load(Ordering::Relaxed))
    }

    fn spread(&self) -> f64 {
        f64::from_bits(self.spread.load(Ordering::Relaxed))
    }
}

/// One endpoint's score, and when it was updated.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OutlierScore(Option<(f64, Instant)>);

impl OutlierScore {
    /// Records an answer after `latency`.
    pub(crate) fn record_answer(&mut self, baseline: &Baseline, latency: Duration) {
        self.add(baseline.record(latency));
    }

    /// Records that there was no answer within `waited`; only a wait that raises the score counts.
    pub(crate) fn record_wait(&mut self, baseline: &Baseline, waited: Duration) {
        let excess = baseline.excess(waited);
        if self.value().is_some_and(|score| excess > score) {
            self.add(excess);
        }
    }

    /// The average excess over the baselines. An endpoint is slow whose score is 1 above the lower median of all.
    /// `None` before the first answer.
    pub(crate) fn value(&self) -> Option<f64> {
        self.0.map(|(score, _)| score)
    }

    /// When the score was last updated.
    pub(crate) fn updated_at(&self) -> Option<Instant> {
        self.0.map(|(_, updated)| updated)
    }

    fn add(&mut self, excess: f64) {
        let now = Instant::now();
        let score = self.0.map_or(excess, |(score, updated)| {
            let age = now.saturating_duration_since(updated);
            let weight = |within: Duration| 1.0 - (-age.as_secs_f64() / within.as_secs_f64()).exp();
            score + weight(BURST).min(ANSWER_WEIGHT).max(weight(DECAY)) * (excess - score)
        });
        self.0 = Some((score, now));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    async fn score(baseline: &Baseline, latencies: impl IntoIterator<Item = Duration>) -> f64 {
        let mut score = OutlierScore::default();
        for latency in latencies {
            advance(BURST).await;
            score.record_answer(baseline, latency);
        }
        score.value().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn three_slow_answers_in_a_row_count_and_one_burst_does_not() {
        let baseline = Baseline::default();
        let mut score = OutlierScore::default();
        (0..100).for_each(|_| score.record_answer(&baseline, 50 * MS));
        advance(BURST).await;
        (0..5).for_each(|_| score.record_answer(&baseline, 500 * MS));
        assert!(score.value().unwrap() < 0.6, "one hiccup delayed all five");
        for _ in 0..2 {
            advance(BURST).await;
            score.record_answer(&baseline, 500 * MS);
        }
        assert!(score.value().unwrap() > 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_serves_expensive_methods_is_not_slow() {
        let (quick, long) = (Baseline::default(), Baseline::default());
        score(&quick, [5 * MS; 100]).await;
        score(&long, [900 * MS; 100]).await;
        assert!(score(&long, [1_000 * MS; 20]).await < score(&quick, [20 * MS; 20]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn fractions_of_milliseconds_are_noise() {
        let baseline = Baseline::default();
        score(&baseline, [Duration::from_micros(200); 100]).await;
        assert!(score(&baseline, [2 * MS; 20]).await < 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_without_an_answer_counts_only_if_it_is_long() {
        let baseline = Baseline::default();
        let mut score = OutlierScore::default();
        (0..100).for_each(|_| score.record_answer(&baseline, 50 * MS));
        score.record_wait(&baseline, MS);
        assert!(score.value().unwrap() > -0.1);
        for _ in 0..3 {
            advance(BURST).await;
            score.record_wait(&baseline, 500 * MS);
        }
        assert!(score.value().unwrap() > 1.0);
    }
}

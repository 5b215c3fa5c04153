//! Excludes endpoints that are much slower than most, except for occasional calls that probe whether they still
//! are.
//!
//! Choosing by cost alone sends calls to an endpoint ten times slower whenever the others are busy or have had a
//! hiccup: one call in twenty in a simulation, five times as many as the 99th percentile tolerates. So slow
//! endpoints are excluded while the others have capacity, and at least half of the endpoints stay.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::candidate::Candidate;
use crate::endpoint::Endpoint;

/// One of this many calls goes to an excluded endpoint...
const CALLS_PER_PROBE: u32 = 400;
/// ...and at least one in this time, so that its recovery is detected at low call rates.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// An endpoint is slow if its score exceeds the lower median by more than this...
const SLOW_ABOVE: f64 = 1.0;
/// ...until it exceeds it by at most this, so that a short delay of the others does not readmit it.
const NORMAL_BELOW: f64 = 0.5;

/// Marks the candidates that are much slower than most, and returns whether there are any.
pub(super) fn mark_slow(candidates: &[Candidate<'_>]) -> bool {
    let scores = || candidates.iter().filter_map(|candidate| candidate.outlier_score);
    let (min, max) = scores().fold((f64::MAX, f64::MIN), |(min, max), score| {
        (min.min(score), max.max(score))
    });
    // The usual case, which needs no sorting.
    if max - min <= SLOW_ABOVE && !candidates.iter().any(Candidate::slow) {
        return false;
    }
    let mut scores: Vec<_> = scores().collect();
    scores.sort_unstable_by(f64::total_cmp);
    let Some(median) = scores.get(scores.len().saturating_sub(1) / 2) else {
        return false;
    };
    for candidate in candidates {
        let limit = if candidate.slow() {
            NORMAL_BELOW
        } else {
            SLOW_ABOVE
        };
        let slow = candidate
            .outlier_score
            .is_some_and(|score| score > median + limit);
        if slow != candidate.slow() {
            candidate.endpoint.stats.set_slow(slow);
        }
    }
    candidates.iter().any(Candidate::slow)
}

/// The latency of the fastest slow endpoint. An endpoint that has been silent for longer while calls are waiting
/// is no better than a slow one: a dead connection keeps the good score of its last answers.
pub(super) fn min_slow_latency(candidates: &[Candidate<'_>], now: Instant) -> Duration {
    let slow = candidates.iter().filter(|candidate| candidate.slow());
    let latencies = slow.map(|candidate| candidate.endpoint.stats.lock().load.estimate(now));
    Duration::try_from_secs_f64(latencies.fold(f64::MAX, f64::min)).unwrap_or(Duration::MAX)
}

/// Decides which calls probe slow endpoints. One for each channel.
#[derive(Debug, Default)]
pub(crate) struct ProbeSchedule {
    calls_since_probe: AtomicU32,
}

impl ProbeSchedule {
    /// The slow endpoint that this call should probe, if a probe is due: the one whose score is the oldest. An
    /// endpoint with a call in flight is not probed, because the result of that call is pending.
    pub(super) fn next_probe<'a>(&self, candidates: &[Candidate<'a>]) -> Option<&'a Arc<Endpoint>> {
        let (endpoint, updated_at) = candidates
            .iter()
            .filter(|candidate| candidate.slow() && candidate.endpoint.stats.in_flight() == 0)
            .filter_map(|candidate| {
                let updated_at = candidate.endpoint.stats.lock().outlier_score.updated_at()?;
                Some((candidate.endpoint, updated_at))
            })
            .min_by_key(|(_, updated_at)| *updated_at)?;
        let calls_since_probe = self.calls_since_probe.fetch_add(1, Ordering::Relaxed);
        let due = calls_since_probe + 1 >= CALLS_PER_PROBE || updated_at.elapsed() >= MAX_PROBE_INTERVAL;
        if due {
            self.calls_since_probe.store(0, Ordering::Relaxed);
        }
        due.then_some(endpoint)
    }
}

//! Endpoints that are much slower than most get no calls but those that find out whether they still are.
//!
//! A choice by cost alone sends calls to an endpoint ten times slower whenever the others are busy or have had a
//! hiccup: one call in twenty, as a simulation has it, which is five times what the 99th percentile bears. So the slow
//! are left out while the others have room, and at least half of the endpoints stay.

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

/// Of so many calls one goes to an endpoint that is left out...
const CALLS_PER_PROBE: u32 = 400;
/// ...and one in this time at least, so that it is found well again where calls are few.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Whoever is so much above the lower median counts as slow...
const SLOW_ABOVE: f64 = 1.0;
/// ...until it is no more than this above it. What holds up the others for a moment does not bring it back.
const NORMAL_BELOW: f64 = 0.5;

/// Marks the candidates that are much slower than most, and returns whether there are any.
pub(super) fn mark_slow(candidates: &[Candidate<'_>]) -> bool {
    let scores = || candidates.iter().filter_map(|candidate| candidate.outlier_score);
    let (min, max) = scores().fold((f64::MAX, f64::MIN), |(min, max), score| {
        (min.min(score), max.max(score))
    });
    // The usual case, which needs no order among them.
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

/// What the quickest of the slow takes: whoever has said nothing for longer, while calls wait for it, is no better. A
/// connection that is dead has the best of scores, that of its last answers.
pub(super) fn min_slow_latency(candidates: &[Candidate<'_>], now: Instant) -> Duration {
    let slow = candidates.iter().filter(|candidate| candidate.slow());
    let latencies = slow.map(|candidate| candidate.endpoint.stats.lock().load.estimate(now));
    Duration::try_from_secs_f64(latencies.fold(f64::MAX, f64::min)).unwrap_or(Duration::MAX)
}

/// Counts the calls that pass an endpoint over. One for each channel.
#[derive(Debug, Default)]
pub(crate) struct ProbeSchedule {
    calls_since_probe: AtomicU32,
}

impl ProbeSchedule {
    /// The endpoint that this call is to go to though it is slow: the one that was not updated_at of for longest.
    /// One call at a time: while it is waited for, another would tell no more.
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

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

use super::choice::Candidate;
use crate::endpoint::Endpoint;

/// Of so many calls one goes to an endpoint that is left out...
const CALLS: u32 = 400;
/// ...and one in this time at least, so that it is found well again where calls are few.
const LONGEST: Duration = Duration::from_secs(60);

/// Whoever is so much above the lower median counts as slow...
const ENTER: f64 = 1.0;
/// ...until it is no more than this above it. What holds up the others for a moment does not bring it back.
const LEAVE: f64 = 0.5;

/// Marks the candidates that are much slower than most, and returns whether there are any.
pub(super) fn mark(candidates: &[Candidate<'_>]) -> bool {
    let scores = || candidates.iter().filter_map(|candidate| candidate.slowness);
    let (least, most) = scores().fold((f64::MAX, f64::MIN), |(least, most), score| {
        (least.min(score), most.max(score))
    });
    // The usual case, which needs no order among them.
    if most - least <= ENTER && !candidates.iter().any(Candidate::slow) {
        return false;
    }
    let mut scores: Vec<_> = scores().collect();
    scores.sort_unstable_by(f64::total_cmp);
    let Some(median) = scores.get(scores.len().saturating_sub(1) / 2) else {
        return false;
    };
    for candidate in candidates {
        let limit = if candidate.slow() { LEAVE } else { ENTER };
        let slow = candidate.slowness.is_some_and(|score| score > median + limit);
        if slow != candidate.slow() {
            candidate.endpoint.vitals.set_slow(slow);
        }
    }
    candidates.iter().any(Candidate::slow)
}

/// What the quickest of the slow takes: whoever has said nothing for longer, while calls wait for it, is no better. A
/// connection that is dead has the best of scores, that of its last answers.
pub(super) fn least_latency(candidates: &[Candidate<'_>], now: Instant) -> Duration {
    let slow = candidates.iter().filter(|candidate| candidate.slow());
    let latencies = slow.map(|candidate| candidate.endpoint.vitals.record().load.estimate(now));
    Duration::try_from_secs_f64(latencies.fold(f64::MAX, f64::min)).unwrap_or(Duration::MAX)
}

/// Counts the calls that pass an endpoint over. One for each channel.
#[derive(Debug, Default)]
pub(crate) struct Scouts {
    passed: AtomicU32,
}

impl Scouts {
    /// The endpoint that this call is to go to though it is slow: the one that was not heard of for longest.
    /// One call at a time: while it is waited for, another would tell no more.
    pub(super) fn due<'a>(&self, candidates: &[Candidate<'a>]) -> Option<&'a Arc<Endpoint>> {
        let (endpoint, heard) = candidates
            .iter()
            .filter(|candidate| candidate.slow() && candidate.endpoint.vitals.in_flight() == 0)
            .filter_map(|candidate| {
                let heard = candidate.endpoint.vitals.record().slowness.updated()?;
                Some((candidate.endpoint, heard))
            })
            .min_by_key(|(_, heard)| *heard)?;
        let passed = self.passed.fetch_add(1, Ordering::Relaxed);
        let due = passed + 1 >= CALLS || heard.elapsed() >= LONGEST;
        if due {
            self.passed.store(0, Ordering::Relaxed);
        }
        due.then_some(endpoint)
    }
}

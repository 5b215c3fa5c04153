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

use super::choice::Candidate;
use crate::endpoint::Endpoint;

/// Of so many calls one goes to an endpoint that is left out...
const CALLS: u32 = 400;
/// ...and one in this time at least, so that it is found well again where calls are few.
const LONGEST: Duration = Duration::from_secs(60);

/// The score above which a candidate is left out; `None` when none is.
pub(super) fn bound(candidates: &[Candidate<'_>]) -> Option<f64> {
    let scores = || candidates.iter().filter_map(|candidate| candidate.slowness);
    let (least, most) = scores().fold((f64::MAX, f64::MIN), |(least, most), score| {
        (least.min(score), most.max(score))
    });
    // The usual case, which needs no order among them.
    if most - least <= 1.0 {
        return None;
    }
    let mut scores: Vec<_> = scores().collect();
    scores.sort_unstable_by(f64::total_cmp);
    let bound = scores[(scores.len() - 1) / 2] + 1.0;
    (most > bound).then_some(bound)
}

/// Counts the calls that pass an endpoint over. One for each channel.
#[derive(Debug, Default)]
pub(crate) struct Scouts {
    passed: AtomicU32,
}

impl Scouts {
    /// The endpoint that this call is to go to though it is slow: the one that was not heard of for longest.
    /// One call at a time: while it is waited for, another would tell no more.
    pub(super) fn due<'a>(&self, candidates: &[Candidate<'a>], bound: f64) -> Option<&'a Arc<Endpoint>> {
        let (endpoint, heard) = candidates
            .iter()
            .filter(|candidate| candidate.slower_than(bound) && candidate.endpoint.vitals.in_flight() == 0)
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

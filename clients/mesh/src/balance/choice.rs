//! Which endpoint an attempt goes to: the cheaper of two picked at random.
//!
//! Two random choices spread load nearly as well as knowing all of it, and clients that act on the same stale
//! picture do not all run to the same endpoint (Mitzenmacher, "The power of two choices").
//!
//! The candidates are narrowed step by step, and a step that would leave none is skipped: admitted by their
//! breakers, not silent, not tried by this call yet, not much slower than most, in the caller's zone.

use std::sync::Arc;

use rand::Rng;
use tokio::time::Instant;

use super::outliers::{self, Scouts};
use crate::{
    call::{Method, Tried},
    endpoint::{
        Endpoint,
        breaker::Admission,
        vitals::{Allowance, Flight},
    },
};

/// What there is for an attempt.
#[derive(Debug)]
pub(crate) enum Choice {
    /// The endpoint, with the call counted as in flight on it.
    Taken(Arc<Endpoint>, Flight),
    /// Every candidate has as many calls in flight as it may.
    Full,
    /// Nothing is connected.
    Nothing,
}

/// What an attempt asks of its endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Criteria<'a> {
    pub(crate) method: &'a Method,
    pub(crate) tried: &'a Tried,
    pub(crate) allowance: Allowance,
    /// Whether the call has not been sent before.
    pub(crate) first: bool,
    /// The caller's own zone.
    pub(crate) zone: Option<&'a str>,
    /// Which calls find out whether slow endpoints still are.
    pub(crate) scouts: &'a Scouts,
}

/// An endpoint that the attempt may go to.
pub(super) struct Candidate<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    /// See [`Slowness::score`](crate::endpoint::slowness::Slowness::score).
    pub(super) slowness: Option<f64>,
}

/// Endpoints are preferred to others, for their zone or their speed, while less than this share of their cap is in
/// flight: the rest is kept so that a burst is not sent away at once.
const FULLNESS: f64 = 0.8;

pub(crate) fn choose(endpoints: &[Arc<Endpoint>], criteria: Criteria<'_>) -> Choice {
    let now = Instant::now();
    let mut candidates = Vec::with_capacity(endpoints.len());
    let open = || endpoints.iter().filter(|endpoint| endpoint.open());
    for endpoint in open() {
        let (admission, slowness) = endpoint.vitals.standing(now);
        match admission {
            Admission::Open => candidates.push(Candidate { endpoint, slowness }),
            Admission::Shut => {}
            // Only a first attempt probes: a retry has had its share of bad luck.
            Admission::ProbeDue if criteria.first && endpoint.vitals.record().breaker.begin_probe() => {
                match criteria.take(endpoint, true) {
                    Some(taken) => return taken,
                    None => endpoint.vitals.record().breaker.abandon_probe(),
                }
            }
            Admission::ProbeDue => {}
        }
    }
    // With every endpoint out, a broken one is better than none.
    if candidates.is_empty() {
        candidates.extend(open().map(|endpoint| Candidate {
            endpoint,
            slowness: None,
        }));
    }
    let some_slow = outliers::mark(&candidates);
    narrow(&mut candidates, |candidate| !candidate.endpoint.silent());
    narrow(&mut candidates, |candidate| {
        !criteria.tried.contains(candidate.endpoint.vitals.id())
    });
    if some_slow {
        let scouted = criteria.scouts.due(&candidates).filter(|_| criteria.first);
        if let Some(taken) = scouted.and_then(|endpoint| criteria.take(endpoint, false)) {
            return taken;
        }
        let patience = outliers::least_latency(&candidates, now);
        narrow(&mut candidates, |candidate| {
            let Candidate { endpoint, .. } = candidate;
            let answers = endpoint.unheard() < patience && endpoint.vitals.fullness() < FULLNESS;
            answers && !candidate.slow()
        });
    }
    if let Some(zone) = criteria.zone {
        narrow(&mut candidates, |Candidate { endpoint, .. }| {
            endpoint.address.zone.as_deref() == Some(zone) && endpoint.vitals.fullness() < FULLNESS
        });
    }
    if candidates.is_empty() {
        return Choice::Nothing;
    }
    while let Some(place) = cheaper_of_two(&candidates, now) {
        if let Some(taken) = criteria.take(candidates.swap_remove(place).endpoint, false) {
            return taken;
        }
    }
    Choice::Full
}

impl Criteria<'_> {
    fn take(&self, endpoint: &Arc<Endpoint>, probe: bool) -> Option<Choice> {
        let flight = endpoint.vitals.take_off(self.allowance, probe)?;
        let flight = flight.beside(self.method.typical.as_ref());
        Some(Choice::Taken(Arc::clone(endpoint), flight))
    }
}

impl Candidate<'_> {
    pub(super) fn slow(&self) -> bool {
        self.endpoint.vitals.slow()
    }
}

fn narrow<'a>(candidates: &mut Vec<Candidate<'a>>, keep: impl Fn(&Candidate<'a>) -> bool) {
    if candidates.iter().any(&keep) {
        candidates.retain(keep);
    }
}

fn cheaper_of_two(candidates: &[Candidate<'_>], now: Instant) -> Option<usize> {
    match candidates.len() {
        0 => None,
        1 => Some(0),
        count => {
            let first = rand::rng().random_range(0..count);
            let second = (first + rand::rng().random_range(1..count)) % count;
            let cost = |place: usize| candidates[place].endpoint.vitals.cost(now);
            Some(if cost(second) < cost(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests;

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
    MethodPolicy,
    call::{Method, Tried},
    endpoint::{
        Endpoint,
        breaker::{Admission, PROBE_LIMIT, Probe},
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
            Admission::ProbeOverdue => endpoint.vitals.expire_probe(),
            Admission::ProbeDue if criteria.may_probe() => {
                if let Some(taken) = criteria.probe(endpoint) {
                    return taken;
                }
            }
            Admission::ProbeDue => endpoint.vitals.want_probe(),
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
        if let Some(taken) = scouted.and_then(|endpoint| criteria.take(endpoint, None)) {
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
            let near = endpoint.address.zone.as_deref() == Some(zone);
            near && endpoint.vitals.fullness() < FULLNESS && endpoint.vitals.has_share()
        });
    }
    if candidates.is_empty() {
        return Choice::Nothing;
    }
    while let Some(place) = cheaper_of_two(&candidates, now) {
        if let Some(taken) = criteria.take(candidates.swap_remove(place).endpoint, None) {
            return taken;
        }
    }
    Choice::Full
}

impl Criteria<'_> {
    fn take(&self, endpoint: &Arc<Endpoint>, probe: Option<Probe>) -> Option<Choice> {
        let flight = endpoint.vitals.take_off(self.allowance, probe)?;
        Some(Choice::Taken(Arc::clone(endpoint), flight.of(self.method)))
    }

    /// Only a first attempt probes, because a retry has had its share of bad luck; only one that may be repeated,
    /// because the endpoint is likely to fail; and only one that answers with one message and counts as late within
    /// the time that a probe has.
    fn may_probe(&self) -> bool {
        let suits = |policy: &Arc<MethodPolicy>| {
            let one_message = !policy.client_streaming && !policy.server_streaming;
            policy.repeatable() && one_message && policy.timeout / 2 <= PROBE_LIMIT
        };
        self.first && self.method.policy.as_ref().is_some_and(suits)
    }

    /// Sends the call as the probe, unless another was faster.
    fn probe(&self, endpoint: &Arc<Endpoint>) -> Option<Choice> {
        let probe = endpoint.vitals.record().breaker.begin_probe()?;
        let taken = self.take(endpoint, Some(probe));
        if taken.is_none() {
            endpoint.vitals.record().breaker.abandon_probe(probe);
        }
        taken
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

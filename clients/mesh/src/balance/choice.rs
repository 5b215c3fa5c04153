//! Which endpoint an attempt goes to: the cheaper of two picked at random.
//!
//! Two random choices spread load nearly as well as knowing all of it, and clients that act on the same stale
//! picture do not all run to the same endpoint (Mitzenmacher, "The power of two choices").
//!
//! The candidates are narrowed step by step, and a step that would leave none is skipped: admitted by their
//! breakers, not tried by this call yet, in the caller's zone.

use std::sync::Arc;

use rand::Rng;
use tokio::time::Instant;

use crate::{
    call::Tried,
    endpoint::{
        Endpoint,
        breaker::Admission,
        vitals::{Allowance, Flight},
    },
};

/// What there is for an criteria.
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
    pub(crate) tried: &'a Tried,
    pub(crate) allowance: Allowance,
    /// Whether the call has not been sent before.
    pub(crate) first: bool,
    /// The caller's own zone.
    pub(crate) zone: Option<&'a str>,
    /// Whether to wait for a connection while every endpoint is known to be down.
    pub(crate) wait_for_ready: bool,
}

/// Endpoints of the caller's zone are preferred while less than this share of their cap is in flight: the
/// rest is kept so that a burst is not sent away at once.
const ZONE_FULLNESS: f64 = 0.8;

pub(crate) fn choose(endpoints: &[Arc<Endpoint>], criteria: Criteria<'_>) -> Choice {
    let now = Instant::now();
    let open = || endpoints.iter().filter(|endpoint| endpoint.open());
    let mut candidates = Vec::with_capacity(endpoints.len());
    for endpoint in open() {
        match endpoint.vitals.admission(now) {
            Admission::Open => candidates.push(endpoint),
            Admission::Shut => {}
            // Only a first attempt probes: a retry has had its share of bad luck.
            Admission::ProbeDue if criteria.first && endpoint.vitals.record().breaker.begin_probe() => {
                match endpoint.vitals.take_off(criteria.allowance, true) {
                    Some(flight) => return Choice::Taken(Arc::clone(endpoint), flight),
                    None => endpoint.vitals.record().breaker.abandon_probe(),
                }
            }
            Admission::ProbeDue => {}
        }
    }
    // With every endpoint out, a broken one is better than none.
    if candidates.is_empty() {
        candidates.extend(open());
    }
    narrow(&mut candidates, |endpoint| {
        !criteria.tried.contains(endpoint.vitals.id())
    });
    if let Some(zone) = criteria.zone {
        narrow(&mut candidates, |endpoint| {
            endpoint.address.zone.as_deref() == Some(zone) && endpoint.vitals.fullness() < ZONE_FULLNESS
        });
    }
    if candidates.is_empty() {
        return Choice::Nothing;
    }
    while let Some(place) = cheaper_of_two(&candidates, now) {
        let endpoint = candidates.swap_remove(place);
        if let Some(flight) = endpoint.vitals.take_off(criteria.allowance, false) {
            return Choice::Taken(Arc::clone(endpoint), flight);
        }
    }
    Choice::Full
}

fn narrow(candidates: &mut Vec<&Arc<Endpoint>>, keep: impl Fn(&Endpoint) -> bool) {
    if candidates.iter().any(|endpoint| keep(endpoint)) {
        candidates.retain(|endpoint| keep(endpoint));
    }
}

fn cheaper_of_two(candidates: &[&Arc<Endpoint>], now: Instant) -> Option<usize> {
    match candidates.len() {
        0 => None,
        1 => Some(0),
        count => {
            let first = rand::rng().random_range(0..count);
            let second = (first + rand::rng().random_range(1..count)) % count;
            let cost = |place: usize| candidates[place].vitals.cost(now);
            Some(if cost(second) < cost(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests;

//! Chooses the endpoint of an attempt: the cheaper of two picked at random.
//!
//! Two random choices spread load nearly as well as complete knowledge of it, and clients with the same outdated
//! information do not all choose the same endpoint (Mitzenmacher, "The power of two choices").
//!
//! The candidates are filtered step by step, and a step that would leave none is skipped: admitted by their
//! breakers, no overdue ping, not tried by this call yet, not much slower than most, in the caller's zone.

use std::sync::Arc;

use rand::Rng;
use tokio::time::Instant;

use super::{
    candidate::Candidate,
    outliers::{self, ProbeSchedule},
};
use crate::{
    MethodPolicy,
    call::Tried,
    endpoint::{
        Endpoint,
        breaker::{Admission, PROBE_LIMIT, Probe},
        stats::{Blame, InFlight},
    },
    method::Method,
};

/// The result of a choice.
#[derive(Debug)]
pub(crate) enum Choice {
    /// The endpoint, on which the call is counted as in flight.
    Selected(Arc<Endpoint>, InFlight),
    /// Every candidate is at its limit of calls in flight.
    Full,
    /// No endpoint is connected.
    NotConnected,
}

/// What determines the endpoint of an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Criteria<'a> {
    pub(crate) method: &'a Method,
    pub(crate) tried: &'a Tried,
    pub(crate) blame: Blame,
    /// Whether this is the first attempt of the call.
    pub(crate) first: bool,
    /// Whether only an endpoint that the first filters below leave may be chosen: `NotConnected` if there is
    /// none.
    pub(crate) usable_only: bool,
    /// The caller's own zone.
    pub(crate) zone: Option<&'a str>,
    /// Decides which calls probe slow endpoints.
    pub(crate) probe_schedule: &'a ProbeSchedule,
}

/// Endpoints are preferred for their zone or their speed while the calls in flight are below this part of their
/// limit; the rest is reserved for bursts.
const PREFERRED_FULLNESS: f64 = 0.8;

pub(crate) fn choose<'a>(
    endpoints: &(impl Iterator<Item = &'a Arc<Endpoint>> + Clone),
    criteria: Criteria<'_>,
) -> Choice {
    let now = Instant::now();
    let mut candidates = Vec::with_capacity(endpoints.size_hint().1.unwrap_or_default());
    let open = || endpoints.clone().filter(|endpoint| endpoint.is_open());
    for endpoint in open() {
        let (admission, outlier_score) = endpoint.stats.admission_and_score(now);
        match admission {
            Admission::Allowed => candidates.push(Candidate {
                endpoint,
                outlier_score,
            }),
            Admission::Denied => {}
            Admission::ProbeOverdue => endpoint.stats.expire_probe(),
            Admission::ProbeDue if criteria.may_probe() => {
                if let Some(selected) = criteria.probe(endpoint) {
                    return selected;
                }
            }
            Admission::ProbeDue => endpoint.stats.request_probe(),
        }
    }
    // If all endpoints are ejected, a broken one is better than none.
    if candidates.is_empty() && !criteria.usable_only {
        candidates.extend(open().map(|endpoint| Candidate {
            endpoint,
            outlier_score: None,
        }));
    }
    let any_slow = outliers::mark_slow(&candidates);
    criteria.exclude(&mut candidates, |candidate| candidate.endpoint.ping_overdue());
    criteria.exclude(&mut candidates, |candidate| {
        criteria.tried.contains(candidate.endpoint.stats.id())
    });
    if any_slow {
        let probed = criteria
            .probe_schedule
            .next_probe(&candidates)
            .filter(|_| criteria.first);
        if let Some(selected) = probed.and_then(|endpoint| criteria.begin(endpoint, None)) {
            return selected;
        }
        let min_slow_latency = outliers::min_slow_latency(&candidates, now);
        narrow(&mut candidates, |candidate| {
            let Candidate { endpoint, .. } = candidate;
            let answers =
                endpoint.silent_for() < min_slow_latency && endpoint.stats.fullness() < PREFERRED_FULLNESS;
            answers && !candidate.slow()
        });
    }
    if let Some(zone) = criteria.zone {
        narrow(&mut candidates, |Candidate { endpoint, .. }| {
            let near = endpoint.address.zone.as_deref() == Some(zone);
            near && endpoint.stats.fullness() < PREFERRED_FULLNESS && endpoint.stats.within_share()
        });
    }
    if candidates.is_empty() {
        return Choice::NotConnected;
    }
    while let Some(index) = cheaper_of_two(&candidates, now) {
        if let Some(selected) = criteria.begin(candidates.swap_remove(index).endpoint, None) {
            return selected;
        }
    }
    Choice::Full
}

impl Criteria<'_> {
    /// Excludes candidates that are not usable; if none is, all stay unless only usable ones are wanted.
    fn exclude<'a>(&self, candidates: &mut Vec<Candidate<'a>>, unusable: impl Fn(&Candidate<'a>) -> bool) {
        if self.usable_only {
            candidates.retain(|candidate| !unusable(candidate));
        } else {
            narrow(candidates, |candidate| !unusable(candidate));
        }
    }

    fn begin(&self, endpoint: &Arc<Endpoint>, probe: Option<Probe>) -> Option<Choice> {
        let in_flight = endpoint.stats.begin(self.blame, probe)?;
        Some(Choice::Selected(
            Arc::clone(endpoint),
            in_flight.for_method(self.method),
        ))
    }

    /// Whether this attempt may be a probe: only a first attempt, because a retry's call has failed once already;
    /// only a method that may be repeated, because the probe is likely to fail; and only a unary method whose
    /// timeouts count within the probe's timeout.
    fn may_probe(&self) -> bool {
        let suits = |policy: &Arc<MethodPolicy>| {
            let one_message = !policy.client_streaming && !policy.server_streaming;
            policy.repeatable() && one_message && policy.timeout / 2 <= PROBE_LIMIT
        };
        self.first && self.method.policy.as_ref().is_some_and(suits)
    }

    /// Makes the call the probe, unless another call was faster.
    fn probe(&self, endpoint: &Arc<Endpoint>) -> Option<Choice> {
        let probe = endpoint.stats.lock().breaker.begin_probe()?;
        let selected = self.begin(endpoint, Some(probe));
        if selected.is_none() {
            endpoint.stats.lock().breaker.abandon_probe(probe);
        }
        selected
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
            let cost = |index: usize| candidates[index].endpoint.stats.cost(now);
            Some(if cost(second) < cost(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests;

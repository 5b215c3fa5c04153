//! Client-side throttling: refuses calls before they are sent while the callee refuses most calls.
//!
//! An overloaded server spends its capacity on refusals. A client whose calls are refused sends only a little more
//! than what is accepted: it refuses a call locally with probability `max(0, (requests - 2 * accepts) / (requests
//! + 1))` (Site Reliability Engineering, "Handling overload").
//!
//! Each criticality has its own history, because a callee that sheds batch work still accepts critical calls. Only
//! refusals of an overloaded server count ([`Refusal::Overload`]): one facility over its rate limit must not
//! affect the calls of others. UNAVAILABLE does not count: the breaker and the retry budget handle it, and it may
//! end at any time, so that a history of two minutes would prolong the outage.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Response;
use rand::Rng;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};
use tower::Service;

use crate::{
    call::{Call, Outcome},
    criticality::PerCriticality,
    origin,
    refusal::Refusal,
    retry::pushback,
    telemetry::{Metrics, span},
};

/// The history covers two minutes, in slots.
const SLOT: Duration = Duration::from_secs(5);
const SLOTS: usize = 24;
/// The client sends up to this many times the calls that are accepted.
const MULTIPLIER: f64 = 2.0;
/// Fewer excess requests do not count as overload: a client with few calls must not be throttled after one
/// failure.
const MIN_EXCESS: u32 = 10;
/// Some calls must be sent, or the callee's recovery would not be detected.
const MAX_PROBABILITY: f64 = 0.9;

/// Refuses calls according to the channel's recent history.
#[derive(Clone, Debug)]
pub(crate) struct Throttle<S> {
    inner: S,
    histories: Arc<Histories>,
    metrics: Arc<Metrics>,
}

impl<S> Throttle<S> {
    pub(crate) fn new(inner: S, histories: Arc<Histories>, metrics: Arc<Metrics>) -> Throttle<S> {
        Throttle {
            inner,
            histories,
            metrics,
        }
    }
}

impl<S> Service<Call> for Throttle<S>
where
    S: Service<Call, Response = Response<Body>, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Outcome>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let (histories, method) = (Arc::clone(&self.histories), Arc::clone(&call.method));
        let history = histories.get(method.criticality());
        let probability = history.rejection_probability();
        if probability > 0.0 && rand::rng().random::<f64>() < probability {
            history.add(false);
            self.metrics.throttled(&method.label);
            return Box::pin(async move {
                span::record_throttled(probability);
                Err(throttled_status())
            });
        }
        let response = self.inner.call(call);
        Box::pin(async move {
            let outcome = response.await;
            let history = histories.get(method.criticality());
            match &outcome {
                // A call that was not sent says nothing about the callee.
                Err(status) if origin::is_not_sent(status) => {}
                Err(_) => history.add(true),
                Ok(response) => history.add(Refusal::from_response(response) != Some(Refusal::Overload)),
            }
            outcome
        })
    }
}

/// RESOURCE_EXHAUSTED with a pushback that forbids retries: if this status is propagated, callers further up must
/// not retry a call that was refused to reduce load.
fn throttled_status() -> Status {
    let text = "throttled by the client: the callee has refused most calls of the last two minutes";
    let details = ErrorDetails::with_error_info("CLIENT_THROTTLED", "mesh", HashMap::new());
    let mut status = Status::with_error_details(Code::ResourceExhausted, text, details);
    status
        .metadata_mut()
        .insert(pushback::HEADER, MetadataValue::from_static("-1"));
    origin::not_sent(status)
}

/// A channel's histories.
pub(crate) type Histories = PerCriticality<History>;

impl Histories {
    /// The probability, 0 to 0.9, with which the next call is refused, of the criticality where it is highest.
    pub(crate) fn rejection_probability(&self) -> f64 {
        self.values()
            .into_iter()
            .map(History::rejection_probability)
            .fold(0.0, f64::max)
    }
}

/// The numbers of requests and of accepted requests of the last two minutes.
#[derive(Debug)]
pub(crate) struct History {
    started: Instant,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    newest: u64,
    counts: [(u32, u32); SLOTS],
}

impl History {
    pub(crate) fn new() -> History {
        History {
            started: Instant::now(),
            slots: Mutex::default(),
        }
    }

    fn rejection_probability(&self) -> f64 {
        let (requests, accepts) = self.with(|slots| {
            let sum =
                |(requests, accepts): (u32, u32), slot: &(u32, u32)| (requests + slot.0, accepts + slot.1);
            slots.counts.iter().fold((0, 0), sum)
        });
        if requests < accepts.saturating_mul(2).saturating_add(MIN_EXCESS) {
            return 0.0;
        }
        let (requests, accepts) = (f64::from(requests), f64::from(accepts));
        ((requests - MULTIPLIER * accepts) / (requests + 1.0)).clamp(0.0, MAX_PROBABILITY)
    }

    fn add(&self, accepted: bool) {
        self.with(|slots| {
            let slot = &mut slots.counts[(slots.newest % SLOTS as u64) as usize];
            slot.0 += 1;
            slot.1 += u32::from(accepted);
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Slots) -> T) -> T {
        let now = self.started.elapsed().as_secs() / SLOT.as_secs();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_sub(slots.newest).min(SLOTS as u64);
        for slot in 0..passed {
            slots.counts[((now - slot) % SLOTS as u64) as usize] = (0, 0);
        }
        slots.newest = slots.newest.max(now);
        work(&mut slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        method::Method,
        policy::{Criticality, MethodPolicy},
    };

    #[tokio::test(start_paused = true)]
    async fn a_callee_that_accepts_half_is_not_throttled() {
        let history = History::new();
        (0..100).for_each(|call| history.add(call % 2 == 0));
        assert_eq!(history.rejection_probability(), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn critical_calls_pass_while_normal_ones_are_throttled() {
        let histories = Histories::new(History::new);
        let method = |criticality| {
            let policy = MethodPolicy {
                criticality,
                ..MethodPolicy::new(Duration::from_secs(1))
            };
            Method::new("test.Service/Method", Some(policy))
        };
        let (normal, critical) = (method(Criticality::Normal), method(Criticality::Critical));
        (0..100).for_each(|_| histories.get(normal.criticality()).add(false));
        assert!(histories.get(normal.criticality()).rejection_probability() > 0.8);
        assert_eq!(histories.get(critical.criticality()).rejection_probability(), 0.0);
        assert!(
            histories.rejection_probability() > 0.8,
            "the snapshot shows the highest"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_failures_of_a_client_with_few_calls_do_not_throttle_it() {
        let history = History::new();
        (0..9).for_each(|_| history.add(false));
        assert_eq!(history.rejection_probability(), 0.0);
        history.add(false);
        assert!(history.rejection_probability() > 0.8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_callee_that_refuses_all_still_gets_a_tenth() {
        let history = History::new();
        (0..1_000).for_each(|_| history.add(false));
        assert_eq!(history.rejection_probability(), MAX_PROBABILITY);
        tokio::time::advance(Duration::from_secs(125)).await;
        assert_eq!(
            history.rejection_probability(),
            0.0,
            "it is forgotten after two minutes"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn accepted_calls_lower_the_probability() {
        let history = History::new();
        (0..100).for_each(|_| history.add(false));
        (0..25).for_each(|_| history.add(true));
        let probability = history.rejection_probability();
        assert!((probability - 75.0 / 126.0).abs() < 1e-9, "{probability}");
    }
}

//! Limits the calls in progress; the limit adapts to their latency. Beyond it a call is rejected at once, with a
//! status that says that nothing was started and when to retry. Less critical calls are rejected first.

mod limit;
mod pushback;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use limit::{Limit, Outcome};
use mesh::policy::Criticality;
use pushback::RejectionRate;
use rand::Rng;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next, refuse},
    methods::Method,
    rejected_calls::RejectedCalls,
};
use crate::status;

pub(super) struct Layer {
    limit: Arc<Limit>,
    in_flight: Arc<AtomicUsize>,
    rejections: RejectionRate,
    rejected: RejectedCalls,
}

impl Layer {
    pub(super) fn new(min_in_flight: usize, max_in_flight: usize) -> Layer {
        Layer {
            limit: Arc::new(Limit::new(min_in_flight, max_in_flight)),
            in_flight: Arc::default(),
            rejections: RejectionRate::new(),
            rejected: RejectedCalls::new(),
        }
    }

    /// A permit for a call.
    ///
    /// # Errors
    /// The delay before the caller may retry, when the limit for this criticality is reached.
    fn acquire(&self, criticality: Criticality) -> Result<Permit, Duration> {
        let percent = match criticality {
            Criticality::Sheddable => 70,
            Criticality::Normal => 90,
            Criticality::Critical => 100,
        };
        // Rounded down, so that a small limit also reserves something; but at least one call must pass.
        let bound = (self.limit.current() * percent / 100).max(1);
        let permit = Permit(self.in_flight.clone());
        if self.in_flight.fetch_add(1, Ordering::AcqRel) < bound {
            self.rejections.accepted();
            return Ok(permit);
        }
        self.limit.record_rejection();
        Err(self.rejections.rejected())
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        // Health checks must also be answered at the limit.
        let Some(policy) = call.policy() else {
            return next.run(call);
        };
        let permit = match self.acquire(policy.criticality) {
            Ok(permit) => permit,
            Err(wait) => {
                self.rejected.record(call.method.as_deref(), "OVERLOADED", wait);
                return Box::pin(async move { refuse(overloaded_for(wait)) });
            }
        };
        let streams = policy.client_streaming || policy.server_streaming;
        // The duration of a stream depends on its reader.
        let sample = call.method.clone().filter(|_| !streams).map(|method| Sample {
            limit: self.limit.clone(),
            in_flight: self.in_flight.clone(),
            method,
            begun: Instant::now(),
            deadline: call.context.deadline(),
            completed: false,
        });
        Box::pin(async move {
            let response = next.run(call).await;
            if let Some(sample) = sample {
                sample.complete();
            }
            drop(permit);
            response
        })
    }
}

/// Measures one call for the limit, also if the call is dropped at its deadline.
struct Sample {
    limit: Arc<Limit>,
    in_flight: Arc<AtomicUsize>,
    method: Arc<Method>,
    begun: Instant,
    deadline: Option<Instant>,
    completed: bool,
}

impl Sample {
    fn complete(mut self) {
        self.completed = true;
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let expired = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let outcome = match (self.completed, expired) {
            (true, _) => Outcome::Completed,
            (false, true) => Outcome::DeadlineExceeded,
            // The caller is gone, which says nothing about the server.
            (false, false) => return,
        };
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        self.limit
            .record(&self.method.name, self.begun.elapsed(), outcome, in_flight);
    }
}

/// RESOURCE_EXHAUSTED `OVERLOADED`, with a retry after about a second.
pub(super) fn overloaded(text: &str) -> tonic::Status {
    overloaded_status(text, Duration::from_millis(rand::rng().random_range(500..1_500)))
}

fn overloaded_for(wait: Duration) -> tonic::Status {
    overloaded_status("the server is full; nothing was started", wait)
}

fn overloaded_status(text: &str, wait: Duration) -> tonic::Status {
    let mut refusal = status::resource_exhausted("OVERLOADED", text, wait);
    refusal.metadata_mut().insert(
        "grpc-retry-pushback-ms",
        MetadataValue::from(wait.as_millis() as u64),
    );
    refusal
}

/// Released when dropped, also for a rejected call.
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_least_critical_calls_are_rejected_first_and_permits_are_released() {
        let layer = Layer::new(10, 10);
        let taken: Vec<_> = (0..7)
            .map(|_| layer.acquire(Criticality::Sheddable).unwrap())
            .collect();
        assert!(layer.acquire(Criticality::Sheddable).is_err());
        let normal: Vec<_> = (0..2)
            .map(|_| layer.acquire(Criticality::Normal).unwrap())
            .collect();
        assert!(layer.acquire(Criticality::Normal).is_err());
        let critical = layer.acquire(Criticality::Critical).unwrap();
        assert!(layer.acquire(Criticality::Critical).is_err());
        drop((taken, normal, critical));
        assert_eq!(layer.in_flight.load(Ordering::Acquire), 0);
        assert!(layer.acquire(Criticality::Sheddable).is_ok());
    }

    #[test]
    fn a_rejection_has_a_retry_delay() {
        let refusal = overloaded_for(Duration::from_millis(230));
        assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
        assert_eq!(refusal.metadata().get("grpc-retry-pushback-ms").unwrap(), "230");
    }
}

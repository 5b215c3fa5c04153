//! A bound on the calls being worked on, which follows how long they take. Past it, a call is refused at once, and told
//! that nothing was started and when to try again; what matters least is refused first.

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
use limit::{Ending, Limit};
use mesh::policy::Criticality;
use pushback::Pressure;
use rand::Rng;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;

use super::{
    Response,
    call::{Call, Layer as CallLayer, Method, Next, refuse},
    refusals::Refusals,
};
use crate::status;

pub(super) struct Layer {
    limit: Arc<Limit>,
    in_flight: Arc<AtomicUsize>,
    pressure: Pressure,
    refusals: Refusals,
}

impl Layer {
    pub(super) fn new(min_in_flight: usize, max_in_flight: usize) -> Layer {
        Layer {
            limit: Arc::new(Limit::new(min_in_flight, max_in_flight)),
            in_flight: Arc::default(),
            pressure: Pressure::new(),
            refusals: Refusals::new(),
        }
    }

    /// A place for a call.
    ///
    /// # Errors
    /// How long the caller is to stay away, when those that its kind may take are taken.
    fn enter(&self, criticality: Criticality) -> Result<Place, Duration> {
        let percent = match criticality {
            Criticality::Sheddable => 70,
            Criticality::Unspecified | Criticality::Normal => 90,
            Criticality::Critical => 100,
        };
        // Rounded down, so that a small limit keeps something back, too; but something must pass.
        let bound = (self.limit.current() * percent / 100).max(1);
        let place = Place(self.in_flight.clone());
        if self.in_flight.fetch_add(1, Ordering::AcqRel) < bound {
            self.pressure.taken();
            return Ok(place);
        }
        self.limit.refused();
        Err(self.pressure.refused())
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        // Probes must be answered most of all when it is full.
        let Some(policy) = call.policy() else {
            return next.run(call);
        };
        let place = match self.enter(policy.criticality) {
            Ok(place) => place,
            Err(wait) => {
                self.refusals.tell(call.method.as_deref(), "OVERLOADED", wait);
                return Box::pin(async move { refuse(full(wait)) });
            }
        };
        let streams = policy.client_streaming || policy.server_streaming;
        // A stream takes as long as its readers like.
        let lesson = call.method.clone().filter(|_| !streams).map(|method| Lesson {
            limit: self.limit.clone(),
            in_flight: self.in_flight.clone(),
            method,
            begun: Instant::now(),
            deadline: call.context.deadline(),
            ended: false,
        });
        Box::pin(async move {
            let response = next.run(call).await;
            if let Some(lesson) = lesson {
                lesson.end();
            }
            drop(place);
            response
        })
    }
}

/// What the limit learns from one call, also when the call is dropped at its deadline.
struct Lesson {
    limit: Arc<Limit>,
    in_flight: Arc<AtomicUsize>,
    method: Arc<Method>,
    begun: Instant,
    deadline: Option<Instant>,
    ended: bool,
}

impl Lesson {
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Lesson {
    fn drop(&mut self) {
        let out_of_time = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let ending = match (self.ended, out_of_time) {
            (true, _) => Ending::Ended,
            (false, true) => Ending::OutOfTime,
            // Its caller has gone: that says nothing about the server.
            (false, false) => return,
        };
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        self.limit
            .learn(&self.method.name, self.begun.elapsed(), ending, in_flight);
    }
}

/// RESOURCE_EXHAUSTED `OVERLOADED`, to be tried again after about a second.
pub(super) fn overloaded(text: &str) -> tonic::Status {
    full_because(text, Duration::from_millis(rand::rng().random_range(500..1_500)))
}

fn full(wait: Duration) -> tonic::Status {
    full_because("the server is full; nothing was started", wait)
}

fn full_because(text: &str, wait: Duration) -> tonic::Status {
    let mut refusal = status::exhausted("OVERLOADED", text, wait);
    refusal.metadata_mut().insert(
        "grpc-retry-pushback-ms",
        MetadataValue::from(wait.as_millis() as u64),
    );
    refusal
}

/// Given back when dropped, a refused one as well.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_matters_least_is_refused_first_and_places_are_given_back() {
        let layer = Layer::new(10, 10);
        let taken: Vec<_> = (0..7)
            .map(|_| layer.enter(Criticality::Sheddable).unwrap())
            .collect();
        assert!(layer.enter(Criticality::Sheddable).is_err());
        let normal: Vec<_> = (0..2)
            .map(|_| layer.enter(Criticality::Normal).unwrap())
            .collect();
        assert!(layer.enter(Criticality::Normal).is_err());
        let critical = layer.enter(Criticality::Critical).unwrap();
        assert!(layer.enter(Criticality::Critical).is_err());
        drop((taken, normal, critical));
        assert_eq!(layer.in_flight.load(Ordering::Acquire), 0);
        assert!(layer.enter(Criticality::Sheddable).is_ok());
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let refusal = full(Duration::from_millis(230));
        assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
        assert_eq!(refusal.metadata().get("grpc-retry-pushback-ms").unwrap(), "230");
    }
}

//! Sends each attempt to an endpoint, and waits while none has room.

mod choice;
mod outliers;

use std::{
    pin::pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::BoxFuture;
use http::Response;
use tokio::sync::watch;
use tonic::{Status, body::Body};
use tower::Service;

use crate::{
    call::{Attempt, AttemptOutcome},
    endpoint::{
        Endpoint,
        room::Room,
        vitals::{Allowance, Flight},
    },
    failure::Failure,
    supervisor::{Demand, Published},
    telemetry::span,
};
use choice::{Choice, Criteria, choose};
pub(crate) use outliers::Scouts;

/// Sends each attempt to one of the published endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// Tells the supervisor that calls find nothing connected.
    pub(crate) demand: Arc<Demand>,
    pub(crate) room: Arc<Room>,
    pub(crate) service: Arc<str>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) scouts: Arc<Scouts>,
}

impl Balance {
    /// Waits while there is hope of a connection, or for room in a queue of bounded length. The deadline
    /// above bounds both.
    async fn pick(&self, criteria: Criteria<'_>) -> Result<(Arc<Endpoint>, Flight), Failure> {
        let choice = choose(&self.published.borrow().endpoints, criteria);
        match choice {
            Choice::Taken(endpoint, flight) => Ok((endpoint, flight)),
            Choice::Full | Choice::Nothing => self.wait(criteria).await,
        }
    }

    async fn wait(&self, criteria: Criteria<'_>) -> Result<(Arc<Endpoint>, Flight), Failure> {
        let mut changes = self.published.clone();
        let Some(place) = self.room.queue() else {
            let text = format!("too many calls wait for an endpoint of {}", self.service);
            return Err(Failure::no_endpoint(Status::resource_exhausted(text)));
        };
        loop {
            let mut freed = pin!(place.freed());
            freed.as_mut().enable();
            let published = Arc::clone(&changes.borrow_and_update());
            match choose(&published.endpoints, criteria) {
                Choice::Taken(endpoint, flight) => return Ok((endpoint, flight)),
                Choice::Full => {}
                Choice::Nothing => {
                    self.demand.raise();
                    if let Some(reason) = &published.failing
                        && !criteria.method.wait_for_ready
                    {
                        let text = format!("no endpoint of {} is reachable: {reason}", self.service);
                        return Err(Failure::no_endpoint(Status::unavailable(text)));
                    }
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return Err(Failure::no_endpoint(Status::unavailable("the channel is closed")));
                },
                () = freed => {}
            }
        }
    }
}

impl Service<Attempt> for Balance {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = BoxFuture<'static, AttemptOutcome>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut attempt: Attempt) -> Self::Future {
        let balance = self.clone();
        Box::pin(async move {
            let declared = attempt.method.policy.as_ref().map(|policy| policy.timeout);
            let criteria = Criteria {
                method: &attempt.method,
                tried: &attempt.tried,
                allowance: Allowance::new(attempt.deadline, declared),
                first: attempt.previous == 0,
                zone: balance.zone.as_deref(),
                scouts: &balance.scouts,
            };
            let (endpoint, flight) = match balance.pick(criteria).await {
                Ok(picked) => picked,
                Err(failure) => {
                    attempt.end(failure.status.code());
                    return Err(failure);
                }
            };
            attempt.tried.add(endpoint.vitals.id());
            span::record_endpoint(&endpoint.address, endpoint.peer);
            endpoint.send(flight, attempt.running, attempt.request).await
        })
    }
}

//! Sends each attempt to an endpoint, and waits while all of them are at their concurrency limit.

mod candidate;
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
    cancellation::cancellable,
    endpoint::{
        Endpoint,
        concurrency_limit::ConcurrencyLimit,
        stats::{Blame, InFlight},
    },
    failure::Failure,
    supervisor::{Demand, Published},
    telemetry::span,
};
use choice::{Choice, Criteria, choose};
pub(crate) use outliers::ProbeSchedule;

/// Sends each attempt to one of the published endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// Signals to the supervisor that calls find no connected endpoint.
    pub(crate) demand: Arc<Demand>,
    pub(crate) concurrency_limit: Arc<ConcurrencyLimit>,
    pub(crate) service: Arc<str>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) probe_schedule: Arc<ProbeSchedule>,
}

impl Balance {
    /// Waits for a connection, and for a call in flight to end, in a queue of bounded length. While all endpoints are
    /// known to be down it waits only with `wait_for_ready`. The call's deadline bounds the wait.
    async fn select(&self, criteria: Criteria<'_>) -> Result<(Arc<Endpoint>, InFlight), Failure> {
        let choice = choose(&self.published.borrow().endpoints, criteria);
        match choice {
            Choice::Selected(endpoint, in_flight) => Ok((endpoint, in_flight)),
            Choice::Full | Choice::NotConnected => self.wait(criteria).await,
        }
    }

    async fn wait(&self, criteria: Criteria<'_>) -> Result<(Arc<Endpoint>, InFlight), Failure> {
        let mut changes = self.published.clone();
        let Some(slot) = self.concurrency_limit.enqueue() else {
            let text = format!("too many calls wait for an endpoint of {}", self.service);
            return Err(Failure::no_endpoint(Status::resource_exhausted(text)));
        };
        loop {
            let mut released = pin!(slot.released());
            released.as_mut().enable();
            let published = Arc::clone(&changes.borrow_and_update());
            match choose(&published.endpoints, criteria) {
                Choice::Selected(endpoint, in_flight) => return Ok((endpoint, in_flight)),
                Choice::Full => {}
                Choice::NotConnected => {
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
                () = released => {}
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
                blame: Blame::new(attempt.deadline, declared),
                first: attempt.previous == 0,
                zone: balance.zone.as_deref(),
                probe_schedule: &balance.probe_schedule,
            };
            let (endpoint, in_flight) = match balance.select(criteria).await {
                Ok(selected) => selected,
                Err(failure) => {
                    attempt.end(failure.status.code());
                    return Err(failure);
                }
            };
            attempt.tried.add(endpoint.stats.id());
            span::record_endpoint(&endpoint.address, endpoint.peer);
            let policy = attempt.method.policy.as_deref();
            let (request, cancellation) = cancellable(policy, attempt.request);
            let response = endpoint.send(in_flight, attempt.running, request).await?;
            Ok(match cancellation {
                Some(cancellation) => cancellation.on_drop_of(response),
                None => response,
            })
        })
    }
}

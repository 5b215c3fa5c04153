//! Sends each attempt to an endpoint, and waits while all of them are at their concurrency limit.

mod candidate;
mod choice;
mod outliers;
mod routed;

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
    route::Destination,
    supervisor::{Demand, Published},
    telemetry::span,
};
use choice::{Choice, Criteria, choose};
pub(crate) use outliers::ProbeSchedule;
use routed::{choose_routed, unreachable};

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
    async fn select(
        &self,
        destination: Option<&Destination>,
        criteria: Criteria<'_>,
    ) -> Result<(Arc<Endpoint>, InFlight), Failure> {
        let choice = choose_among(&self.published.borrow(), destination, criteria);
        match choice {
            Choice::Selected(endpoint, in_flight) => Ok((endpoint, in_flight)),
            Choice::Full | Choice::NotConnected => self.wait(destination, criteria).await,
        }
    }

    async fn wait(
        &self,
        destination: Option<&Destination>,
        criteria: Criteria<'_>,
    ) -> Result<(Arc<Endpoint>, InFlight), Failure> {
        let mut changes = self.published.clone();
        let Some(slot) = self.concurrency_limit.enqueue() else {
            let text = format!("too many calls wait for an endpoint of {}", self.service);
            return Err(Failure::no_endpoint(Status::resource_exhausted(text)));
        };
        loop {
            let mut released = pin!(slot.released());
            released.as_mut().enable();
            let published = Arc::clone(&changes.borrow_and_update());
            match choose_among(&published, destination, criteria) {
                Choice::Selected(endpoint, in_flight) => return Ok((endpoint, in_flight)),
                Choice::Full => {}
                Choice::NotConnected => {
                    self.demand.raise();
                    if !criteria.method.wait_for_ready
                        && let Some(reason) = unavailable(&published, destination)
                    {
                        let text = format!("no endpoint of {} {reason}", self.service);
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

fn choose_among(published: &Published, destination: Option<&Destination>, criteria: Criteria<'_>) -> Choice {
    match destination {
        None => choose(&published.endpoints.iter(), criteria),
        Some(destination) => choose_routed(published, destination, criteria),
    }
}

/// Why no call can be sent; `None` if calls can be sent, or while the first connections are being opened.
fn unavailable(published: &Published, destination: Option<&Destination>) -> Option<String> {
    let failing = published.failing.as_ref();
    failing
        .map(|reason| format!("is reachable: {reason}"))
        .or_else(|| unreachable(published, destination?))
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
                usable_only: false,
                zone: balance.zone.as_deref(),
                probe_schedule: &balance.probe_schedule,
            };
            let destination = attempt.destination.as_ref();
            let (endpoint, in_flight) = match balance.select(destination, criteria).await {
                Ok(selected) => selected,
                Err(failure) => {
                    attempt.end(failure.status.code());
                    return Err(failure);
                }
            };
            attempt.tried.add(endpoint.stats.id());
            span::record_endpoint(&endpoint.address, endpoint.peer);
            let labels = &endpoint.address.labels;
            if let Some(group) = destination.and_then(|destination| destination.group_of(labels)) {
                span::record_group(group.name.as_str());
                if let Some(running) = &mut attempt.running {
                    running.group = Some(group.name.clone());
                }
            }
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

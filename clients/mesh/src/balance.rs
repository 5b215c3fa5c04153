//! Picks an endpoint for each attempt: the cheaper of two picked at random, among those not tried yet.
//!
//! Two random choices spread load nearly as well as knowing all of it, and clients that act on the same stale
//! picture do not all run to the same endpoint (Mitzenmacher, "The power of two choices").

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::BoxFuture;
use http::Response;
use rand::Rng;
use tokio::sync::{Notify, watch};
use tonic::{Status, body::Body};
use tower::Service;

use crate::{
    call::{Attempt, AttemptOutcome, Tried},
    endpoint::Endpoint,
    failure::Failure,
    supervisor::Published,
    telemetry::span,
};

/// Sends each attempt to one of the published endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    published: watch::Receiver<Arc<Published>>,
    demand: Arc<Notify>,
    service: Arc<str>,
    wait_for_ready: bool,
}

impl Balance {
    pub(crate) fn new(
        published: watch::Receiver<Arc<Published>>,
        demand: Arc<Notify>,
        service: Arc<str>,
        wait_for_ready: bool,
    ) -> Balance {
        Balance {
            published,
            demand,
            service,
            wait_for_ready,
        }
    }

    /// Waits while there is hope of a connection; the deadline above bounds the wait.
    async fn pick(mut self, tried: &Tried) -> Result<Arc<Endpoint>, Failure> {
        loop {
            let published = Arc::clone(&self.published.borrow_and_update());
            if let Some(endpoint) = choose(&published.endpoints, tried) {
                return Ok(Arc::clone(endpoint));
            }
            self.demand.notify_waiters();
            if let Some(reason) = &published.failing
                && !self.wait_for_ready
            {
                let text = format!("no endpoint of {} is reachable: {reason}", self.service);
                return Err(Failure::no_endpoint(Status::unavailable(text)));
            }
            if self.published.changed().await.is_err() {
                return Err(Failure::no_endpoint(Status::unavailable("the channel is closed")));
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

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        let balance = self.clone();
        Box::pin(async move {
            let endpoint = balance.pick(&attempt.tried).await?;
            attempt.tried.add(endpoint.vitals.id());
            span::record_endpoint(endpoint.address.authority.as_str());
            endpoint.send(attempt.request).await
        })
    }
}

fn choose<'a>(endpoints: &'a [Arc<Endpoint>], tried: &Tried) -> Option<&'a Arc<Endpoint>> {
    let open: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.open()).collect();
    let fresh: Vec<_> = open
        .iter()
        .copied()
        .filter(|endpoint| !tried.contains(endpoint.vitals.id()))
        .collect();
    let candidates = if fresh.is_empty() { open } else { fresh };
    match candidates.len() {
        0 => None,
        1 => Some(candidates[0]),
        count => {
            let first = rand::rng().random_range(0..count);
            let second = (first + rand::rng().random_range(1..count)) % count;
            let (first, second) = (candidates[first], candidates[second]);
            Some(if second.cost() < first.cost() {
                second
            } else {
                first
            })
        }
    }
}

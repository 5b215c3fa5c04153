//! Follows an endpoint's own word on its health (`grpc.health.v1`, gRFC A17).
//!
//! A connected endpoint gets calls only while it says SERVING. One that does not implement the health service
//! counts as healthy; a watch that breaks counts as unhealthy until it stands again.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::sleep;
use tonic::{Code, Status, body::Body};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::Service;

use crate::{endpoint::Endpoint, retry::backoff::jitter};

/// The waits before a error watch is begun again, before jitter: they grow until the endpoint says something (gRFC
/// A17).
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(120);
const BACKOFF_FACTOR: f64 = 1.6;

/// What an endpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Serving,
    NotServing(String),
}

/// Tells every change to `tell` until that returns `false`. Ends early when there is no more to be told.
pub(super) async fn watch<F, R>(endpoint: Arc<Endpoint>, service: &str, mut on_change: F)
where
    F: FnMut(Health) -> R,
    R: Future<Output = bool>,
{
    let mut backoff = INITIAL_BACKOFF;
    loop {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let error = match HealthClient::new(UntrackedClient(Arc::clone(&endpoint)))
            .watch(request)
            .await
        {
            Err(status) => status,
            Ok(response) => {
                let mut changes = response.into_inner();
                loop {
                    match changes.message().await {
                        Ok(Some(response)) => {
                            backoff = INITIAL_BACKOFF;
                            if !on_change(to_health(response.status())).await {
                                return;
                            }
                        }
                        Ok(None) => break Status::unavailable("the health watch ended"),
                        Err(status) => break status,
                    }
                }
            }
        };
        if error.code() == Code::Unimplemented {
            on_change(Health::Serving).await;
            return;
        }
        if !on_change(Health::NotServing(format!("health watch: {}", error.message()))).await {
            return;
        }
        sleep(jitter(backoff)).await;
        backoff = backoff.mul_f64(BACKOFF_FACTOR).min(MAX_BACKOFF);
    }
}

fn to_health(status: ServingStatus) -> Health {
    match status {
        ServingStatus::Serving => Health::Serving,
        other => Health::NotServing(format!("the endpoint says {}", other.as_str_name())),
    }
}

/// The endpoint without load and breaker: a watch is no call.
#[derive(Clone)]
pub(super) struct UntrackedClient(pub(super) Arc<Endpoint>);

impl Service<Request<Body>> for UntrackedClient {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(Arc::clone(&self.0).send_uncounted(request))
    }
}

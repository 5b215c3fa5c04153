//! Watches the health that an endpoint reports (`grpc.health.v1`, gRFC A17).
//!
//! A connected endpoint gets calls only while it reports SERVING. One that does not implement the health service
//! counts as healthy; if a watch fails, the endpoint counts as unhealthy until a new watch reports SERVING.

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

/// The backoff before a failed watch is restarted, before jitter: it grows until the endpoint reports a health
/// (gRFC A17).
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(120);
const BACKOFF_FACTOR: f64 = 1.6;

/// The reported health of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Serving,
    /// With the reason.
    NotServing(String),
}

/// Calls `on_change` with every change until it returns `false`, or until no more changes can come.
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
        other => Health::NotServing(format!("the endpoint reports {}", other.as_str_name())),
    }
}

/// Sends requests to the endpoint without recording them in its statistics.
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

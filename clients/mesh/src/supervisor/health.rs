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

/// The waits before a broken watch is begun again, before jitter: they grow until the endpoint says something (gRFC
/// A17).
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(120);
const FACTOR: f64 = 1.6;

/// What an endpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Serving,
    NotServing(String),
}

/// Tells every change to `tell` until that returns `false`. Ends early when there is no more to be told.
pub(super) async fn follow<F, R>(endpoint: Arc<Endpoint>, service: &str, mut tell: F)
where
    F: FnMut(Health) -> R,
    R: Future<Output = bool>,
{
    let mut backoff = FIRST;
    loop {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let broken = match HealthClient::new(Direct(Arc::clone(&endpoint)))
            .watch(request)
            .await
        {
            Err(status) => status,
            Ok(answer) => {
                let mut answers = answer.into_inner();
                loop {
                    match answers.message().await {
                        Ok(Some(answer)) => {
                            backoff = FIRST;
                            if !tell(health(answer.status())).await {
                                return;
                            }
                        }
                        Ok(None) => break Status::unavailable("the health watch ended"),
                        Err(status) => break status,
                    }
                }
            }
        };
        if broken.code() == Code::Unimplemented {
            tell(Health::Serving).await;
            return;
        }
        if !tell(Health::NotServing(format!("health watch: {}", broken.message()))).await {
            return;
        }
        sleep(jitter(backoff)).await;
        backoff = backoff.mul_f64(FACTOR).min(LONGEST);
    }
}

fn health(status: ServingStatus) -> Health {
    match status {
        ServingStatus::Serving => Health::Serving,
        other => Health::NotServing(format!("the endpoint says {}", other.as_str_name())),
    }
}

/// The endpoint without load and breaker: a watch is no call.
#[derive(Clone)]
pub(super) struct Direct(pub(super) Arc<Endpoint>);

impl Service<Request<Body>> for Direct {
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

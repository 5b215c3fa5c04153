//! `grpc.health.v1`, following its protocol: an unknown service is NOT_FOUND for Check, and SERVICE_UNKNOWN for
//! Watch.

use std::pin::Pin;

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status as GrpcStatus};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use super::{Health, Status};
use crate::contract::text;

/// Longer than the name of any service.
const MAX_SERVICE_CHARS: usize = 256;

/// The health service of one process.
#[derive(Clone, Debug)]
pub(crate) struct HealthService(pub(crate) Health);

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, GrpcStatus> {
        match self.0.status(&request.get_ref().service) {
            Status::Unknown => Err(crate::status::not_found("service", &request.get_ref().service)),
            known => Ok(Response::new(encode(known))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, GrpcStatus>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, GrpcStatus> {
        // Kept as long as the caller watches, so its length is bounded.
        let service = text::sanitized(&request.get_ref().service, MAX_SERVICE_CHARS).into_owned();
        let state = self.0.watch();
        // Sends the current status and then each change, until the process closes its watches.
        let changes = stream::unfold((state, service, None), |(mut state, service, last)| async move {
            loop {
                let (status, closed) = {
                    let now = state.borrow_and_update();
                    (now.status(&service), now.is_closed())
                };
                if last != Some(status) {
                    return Some((Ok(encode(status)), (state, service, Some(status))));
                }
                if closed || state.changed().await.is_err() {
                    return None;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

fn encode(status: Status) -> HealthCheckResponse {
    let status = match status {
        Status::Serving => ServingStatus::Serving,
        Status::NotServing => ServingStatus::NotServing,
        Status::Unknown => ServingStatus::ServiceUnknown,
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::{health_server::Health as _, *};

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest {
            service: service.to_owned(),
        })
    }

    #[tokio::test]
    async fn an_unknown_service_is_not_found_to_check_and_unknown_to_watch() {
        let service = HealthService(Health::new());
        assert_eq!(
            service.check(request("nobody")).await.unwrap_err().code(),
            Code::NotFound
        );
        let mut watch = service.watch(request("nobody")).await.unwrap().into_inner();
        let last = watch.next().await.unwrap().unwrap();
        assert_eq!(last.status(), ServingStatus::ServiceUnknown);
    }

    #[tokio::test]
    async fn a_watch_sends_each_change_and_ends_when_the_process_closes() {
        let health = Health::new();
        let mut watch = HealthService(health.clone())
            .watch(request("readiness"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            watch.next().await.unwrap().unwrap().status(),
            ServingStatus::NotServing
        );
        health.started();
        assert_eq!(
            watch.next().await.unwrap().unwrap().status(),
            ServingStatus::Serving
        );
        health.draining();
        assert_eq!(
            watch.next().await.unwrap().unwrap().status(),
            ServingStatus::NotServing
        );
        health.closed();
        assert!(watch.next().await.is_none());
    }
}

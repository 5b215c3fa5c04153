//! Explains a call that reached a server which does not serve the method: finds out which server it is.

use std::time::Duration;

use mesh::Context;
use tonic::Status;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::Clients;
use crate::{
    failure::{CallFailure, Failure, is_unknown_service},
    globals::Globals,
    service::Service,
};

/// The timeout of one health check, which identifies the server.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Adds to a failure which server has answered, if it is not the intended one.
pub(crate) async fn explain(globals: &Globals, failure: Failure) -> Failure {
    match failure {
        Failure::Call(call) if is_unknown_service(&call.status) => {
            let CallFailure { method, status } = *call;
            let status = match Clients::open(globals) {
                Ok(clients) => clients.explain(method, status).await,
                Err(_) => status,
            };
            Failure::Call(Box::new(CallFailure { method, status }))
        }
        other => other,
    }
}

impl Clients {
    /// Replaces the message of a status, if the server that has answered is not the intended one.
    pub(crate) async fn explain(&self, method: &str, status: Status) -> Status {
        let Some(intended) = Service::by_method(method).filter(|_| is_unknown_service(&status)) else {
            return status;
        };
        let address = self
            .0
            .addresses
            .iter()
            .find(|address| address.service == intended);
        let url = address.map_or("", |address| address.url.as_str());
        let service = method.split('/').next().unwrap_or_default();
        let hint = match self.service_at(intended).await {
            // A probe port reports the service's health but does not serve the service.
            Some(known) if known == intended => {
                format!("is it the probe port of the {} service?", intended.name())
            }
            Some(other) => format!("it is the {} service", other.name()),
            None => "is this the address of another service?".to_owned(),
        };
        let message = format!("the server at {url} does not serve {service}: {hint}");
        let details = status.details().to_vec().into();
        Status::with_details_and_metadata(status.code(), message, details, status.metadata().clone())
    }

    /// The service that the health check at the address of `intended` knows.
    async fn service_at(&self, intended: Service) -> Option<Service> {
        let mut health = HealthClient::new(self.channel(intended));
        for known in Service::ALL {
            let request = HealthCheckRequest {
                service: known.grpc_service().to_owned(),
            };
            let request = Context::new().with_timeout(HEALTH_TIMEOUT).request(request);
            if health.check(request).await.is_ok() {
                return Some(known);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;
    use tonic::Code;

    use crate::policies::policies;

    #[test]
    fn every_method_is_served_by_one_service_or_by_all() {
        for (path, _) in policies().unwrap().iter() {
            let method = path.trim_start_matches('/');
            let everywhere = [
                "grpc.",
                "ops.v1.DeadLetterService",
                "ops.v1.EventService",
                "ops.v1.MeshService",
            ];
            let is_everywhere = everywhere.iter().any(|of| method.starts_with(of));
            assert_eq!(Service::by_method(method).is_none(), is_everywhere, "{method}");
        }
        assert_eq!(
            Service::by_method("payment.v1.LedgerService/GetTrialBalance"),
            Some(Service::Payment)
        );
    }

    #[test]
    fn only_unimplemented_without_the_service_means_another_server() {
        assert!(is_unknown_service(&Status::unimplemented("")));
        assert!(!is_unknown_service(&Status::unavailable("")));
        let mut details = ErrorDetails::new();
        details.set_error_info("UNKNOWN_METHOD", "weft", std::collections::HashMap::new());
        let older = Status::with_error_details(Code::Unimplemented, "no such method", details);
        assert!(!is_unknown_service(&older));
    }
}

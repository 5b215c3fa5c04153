//! Probes an ejected endpoint with a health check when no user's call is suitable as the probe.

use std::sync::Arc;

use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::health::UntrackedClient;
use crate::endpoint::{Endpoint, breaker::PROBE_LIMIT};

/// Sends a `Health/Check` whenever a probe is requested. Never returns.
pub(super) async fn run(endpoint: Arc<Endpoint>, service: &str) {
    loop {
        endpoint.stats.probe_requested().await;
        let probe = endpoint.stats.lock().breaker.begin_probe();
        if let Some(probe) = probe {
            let serving = timeout(PROBE_LIMIT, is_serving(&endpoint, service)).await;
            endpoint.stats.end_probe(probe, serving.unwrap_or(false));
        }
    }
}

/// Whether the endpoint reports SERVING. One without a health service, or one that denies access to it, counts as
/// serving, because it responds and no more can be known.
async fn is_serving(endpoint: &Arc<Endpoint>, service: &str) -> bool {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let response = HealthClient::new(UntrackedClient(Arc::clone(endpoint)))
        .check(request)
        .await;
    match response {
        Ok(response) => response.into_inner().status() == ServingStatus::Serving,
        Err(status) => matches!(
            status.code(),
            Code::Unimplemented | Code::NotFound | Code::Unauthenticated | Code::PermissionDenied
        ),
    }
}

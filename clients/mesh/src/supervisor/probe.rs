//! Finds out whether an ejected endpoint works again when no user's call may be risked for it.

use std::sync::Arc;

use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::health::Direct;
use crate::endpoint::{Endpoint, breaker::PROBE_LIMIT};

/// Sends a `Health/Check` whenever one is asked for. Never returns.
pub(super) async fn follow(endpoint: Arc<Endpoint>, service: &str) {
    loop {
        endpoint.vitals.probe_wanted().await;
        let begun = endpoint.vitals.record().breaker.begin_probe();
        if let Some(probe) = begun {
            let serves = timeout(PROBE_LIMIT, serves(&endpoint, service)).await;
            endpoint.vitals.end_probe(probe, serves.unwrap_or(false));
        }
    }
}

/// Whether it says that it serves. One that has no health service, or does not let everybody ask, is alive, and that is
/// all that can be known of it.
async fn serves(endpoint: &Arc<Endpoint>, service: &str) -> bool {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(Direct(Arc::clone(endpoint)))
        .check(request)
        .await;
    match answer {
        Ok(answer) => answer.into_inner().status() == ServingStatus::Serving,
        Err(status) => matches!(
            status.code(),
            Code::Unimplemented | Code::NotFound | Code::Unauthenticated | Code::PermissionDenied
        ),
    }
}

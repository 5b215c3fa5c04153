//! `ops.v1.MeshService`: serves call statistics of this process.

use proto::ops::v1::{
    GetMeshSnapshotRequest, GetMeshSnapshotResponse, MeshBreakerState, MeshEdge, MeshEndpoint, MeshMethod,
    MeshTraffic, mesh_service_server::MeshService,
};
use tonic::{Request, Response, Status};

use crate::Process;

/// Serves snapshots of the process's channels.
pub(super) struct Service(pub(super) Process);

#[tonic::async_trait]
impl MeshService for Service {
    async fn get_mesh_snapshot(
        &self,
        request: Request<GetMeshSnapshotRequest>,
    ) -> Result<Response<GetMeshSnapshotResponse>, Status> {
        let request = request.into_inner();
        let wanted = |name: &str| request.service.is_empty() || request.service == name;
        let mut snapshots = self.0.channels.snapshots();
        snapshots.retain(|snapshot| wanted(&snapshot.service));
        snapshots.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(Response::new(GetMeshSnapshotResponse {
            caller: self.0.name.to_owned(),
            edges: snapshots
                .into_iter()
                .map(|snapshot| edge(snapshot, request.with_methods))
                .collect(),
        }))
    }
}

fn edge(snapshot: mesh::Snapshot, with_methods: bool) -> MeshEdge {
    let traffic = snapshot.traffic;
    let methods = if with_methods {
        snapshot.methods
    } else {
        Vec::new()
    };
    MeshEdge {
        service: snapshot.service,
        target: snapshot.target,
        traffic: Some(MeshTraffic {
            calls_per_second: traffic.calls_per_s,
            effective_success: traffic.success,
            attempts_per_second: traffic.attempts_per_s,
            actual_success: traffic.attempt_success,
            p50_ms: traffic.p50_ms,
            p95_ms: traffic.p95_ms,
            p99_ms: traffic.p99_ms,
        }),
        retries_left: snapshot.retries_left,
        refusal: snapshot.refusal,
        failing: snapshot.failing.unwrap_or_default(),
        endpoints: snapshot.endpoints.into_iter().map(endpoint).collect(),
        methods: methods.into_iter().map(method).collect(),
    }
}

fn endpoint(endpoint: mesh::snapshot::Endpoint) -> MeshEndpoint {
    let breaker = match endpoint.breaker {
        "ejected" => MeshBreakerState::Ejected,
        "probing" => MeshBreakerState::Probing,
        _ => MeshBreakerState::Closed,
    };
    MeshEndpoint {
        authority: endpoint.authority,
        address: endpoint.address,
        zone: endpoint.zone.unwrap_or_default(),
        connected: endpoint.connected,
        failure: endpoint.failure.unwrap_or_default(),
        weight: endpoint.weight,
        latency_ms: endpoint.latency_ms,
        in_flight: endpoint.in_flight.try_into().unwrap_or(u32::MAX),
        breaker: breaker.into(),
        breaker_reason: endpoint.reason.unwrap_or_default(),
        ejected_for_ms: endpoint.ejected_for_ms.unwrap_or_default(),
    }
}

fn method(method: mesh::snapshot::Method) -> MeshMethod {
    MeshMethod {
        name: method.name,
        timeout_ms: method.timeout_ms,
        timeout_source: method.timeout_source,
        max_attempts: method.max_attempts,
        retryable_codes: method.retryable_codes.into_iter().map(str::to_owned).collect(),
        retry_source: method.retry_source,
        max_hedged_attempts: method.max_hedged_attempts,
        hedging_source: method.hedging_source,
        wait_for_ready: method.wait_for_ready,
        wait_for_ready_source: method.wait_for_ready_source,
        p95_ms: method.p95_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Upstream, server::tests::fixture::process};

    async fn snapshot(server: &Service, service: &str, with_methods: bool) -> GetMeshSnapshotResponse {
        let request = GetMeshSnapshotRequest {
            service: service.to_owned(),
            with_methods,
        };
        server
            .get_mesh_snapshot(Request::new(request))
            .await
            .unwrap()
            .into_inner()
    }

    #[tokio::test]
    async fn every_channel_of_the_process_is_an_edge_and_methods_come_when_asked_for() {
        let process = process();
        for (service, port) in [("payment", 1), ("claims", 2)] {
            process.channel(service, &Upstream::local(port)).unwrap();
        }
        let server = Service(process);
        let all = snapshot(&server, "", false).await;
        assert_eq!(all.caller, "order");
        let names: Vec<_> = all.edges.iter().map(|edge| edge.service.as_str()).collect();
        assert_eq!(names, ["claims", "payment"]);
        assert!(all.edges.iter().all(|edge| edge.methods.is_empty()));
        assert_eq!(all.edges[0].traffic.unwrap().effective_success, None);
        let one = snapshot(&server, "payment", true).await;
        assert_eq!(one.edges.len(), 1);
        assert!(
            one.edges[0]
                .methods
                .iter()
                .all(|method| method.timeout_source == "contract")
        );
        assert!(!one.edges[0].methods.is_empty());
    }
}

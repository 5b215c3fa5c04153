//! The health checks that Kubernetes' probes call.

use std::time::Duration;

use tests::{Durability, Options, Service, Stack, eventually};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

#[tokio::test(flavor = "multi_thread")]
async fn every_probe_answers_for_its_own_service() {
    let stack = Stack::start().await;
    for (service, names) in [
        (Service::Order, ["order.v1.OrderService", "ops.v1.SagaService"]),
        (
            Service::Payment,
            ["payment.v1.PaymentService", "payment.v1.LedgerService"],
        ),
        (
            Service::Claims,
            ["claims.v1.ClaimService", "ops.v1.DeadLetterService"],
        ),
    ] {
        for name in ["", "startup", "liveness", "readiness"].into_iter().chain(names) {
            assert_eq!(
                stack.health(service, name).await.unwrap(),
                ServingStatus::Serving,
                "{service}: {name:?}"
            );
        }
        let unknown = stack
            .health(service, "unknown.v1.UnknownService")
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_postgresql_and_liveness_does_not() {
    let stack = Stack::with(Options::default().own_postgres(Durability::Fast)).await;
    stack.postgres().stop().await;
    for service in Service::ALL {
        not_ready(&stack, service).await;
    }
    for service in Service::ALL {
        assert_eq!(
            stack.health(service, "liveness").await.unwrap(),
            ServingStatus::Serving,
            "{service}"
        );
    }
    stack.postgres().restart().await;
    for service in Service::ALL {
        stack.ready(service).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_nats() {
    let stack = Stack::start().await;
    stack.nats().stop().await;
    for service in Service::ALL {
        not_ready(&stack, service).await;
        assert_eq!(
            stack.health(service, "liveness").await.unwrap(),
            ServingStatus::Serving,
            "{service}"
        );
    }
    stack.nats().restart().await;
    for service in Service::ALL {
        stack.ready(service).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_ends_with_success() {
    let stack = Stack::start().await;
    for service in Service::ALL {
        let status = stack.stop(service).await;
        assert!(
            status.success(),
            "{service} ended with {status}\n{}",
            stack.log(service)
        );
    }
}

async fn not_ready(stack: &Stack, service: Service) {
    eventually(Duration::from_secs(5), || async {
        matches!(
            stack.health(service, "readiness").await,
            Ok(ServingStatus::NotServing)
        )
    })
    .await;
}

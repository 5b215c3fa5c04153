//! A database that is reachable but unusable: calls are refused as retryable, and succeed again afterwards.

use std::time::Duration;

use proto::{
    claims::v1::{WithdrawClaimRequest, claim_service_client::ClaimServiceClient},
    order::v1::OrderState,
};
use sqlx::{AssertSqlSafe, PgPool};
use tests::{Options, Service, Stack, eventually, stack::Client};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::{
    order_fixture::{Fixture, SOON, reason},
    samples::self_pay_order,
};

/// The password that the services use, and the one that the database requires for a while.
const KNOWN: &str = "known-4711";
const CHANGED: &str = "changed-0815";

async fn claims() -> (Stack, ClaimServiceClient<Client>) {
    let stack = Stack::with(Options::default().only(&[Service::Claims])).await;
    let claims = ClaimServiceClient::new(stack.connect(Service::Claims, &stack.token("F1", &["clerk"])));
    (stack, claims)
}

async fn withdraw(claims: &ClaimServiceClient<Client>) -> Result<(), Status> {
    let request = WithdrawClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: Uuid::new_v4().to_string(),
        ..WithdrawClaimRequest::default()
    };
    claims.clone().withdraw_claim(request).await.map(drop)
}

async fn execute(pool: &PgPool, statement: impl Into<String>) {
    let statement = AssertSqlSafe(statement.into());
    sqlx::query(statement).execute(pool).await.unwrap();
}

/// Ends the sessions of a service in its database.
async fn terminate(superuser: &PgPool, service: Service) {
    let terminate = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and usename = '{service}_app'"
    );
    execute(superuser, terminate).await;
}

/// Waits until a service has this readiness.
async fn readiness(stack: &Stack, service: Service, wanted: ServingStatus) {
    eventually(SOON, || async {
        let status = stack.health(service, "readiness").await;
        status.is_ok_and(|status| status == wanted)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_unavailable_to_callers_without_database_details() {
    let (stack, claims) = claims().await;
    withdraw(&claims).await.unwrap();
    let database = stack.database(Service::Claims);
    database.fill_disk_under("chassis.idempotency").await;
    let refused = withdraw(&claims).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "DATABASE_UNAVAILABLE");
    assert!(details.retry_info().is_some());
    assert!(!refused.message().contains("extend"), "{refused}");
    let log = stack.postgres().whole_log();
    assert!(log.contains("could not extend file"), "{log}");
    readiness(&stack, Service::Claims, ServingStatus::Serving).await;
    execute(&database.superuser().await, "truncate chassis.idempotency").await;
    withdraw(&claims).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn repeatedly_terminated_sessions_fail_calls_and_never_the_service() {
    let (stack, claims) = claims().await;
    let superuser = stack.database(Service::Claims).superuser().await;
    withdraw(&claims).await.unwrap();
    for _ in 0..10 {
        terminate(&superuser, Service::Claims).await;
        eventually(Duration::from_secs(30), || async {
            match withdraw(&claims).await {
                Err(status) if status.code() != Code::Unavailable => panic!("{status}"),
                ended => ended,
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_database_password_fails_calls_and_the_service_recovers_when_it_is_restored() {
    let options = Options::default()
        .database_password(KNOWN)
        .set(Service::Payment, "sandbox.slow_ms", "1000")
        .set(Service::Payment, "processor.timeout_ms", "2000");
    let fixture = Fixture::with(options).await;
    let superuser = fixture.stack.database(Service::Order).superuser().await;
    let request = self_pay_order("tok_slow");
    let placing = {
        let (mut orders, request) = (fixture.orders.clone(), request.clone());
        tokio::spawn(async move { orders.place_order(request).await })
    };
    let under_way = "select count(*) from sandbox.card_authorization";
    eventually(SOON, || async {
        fixture.stack.database(Service::Payment).count(under_way).await == 1
    })
    .await;
    execute(&superuser, format!("alter role order_app password '{CHANGED}'")).await;
    terminate(&superuser, Service::Order).await;
    readiness(&fixture.stack, Service::Order, ServingStatus::NotServing).await;
    // A session that was being opened may have succeeded.
    eventually(SOON, || async {
        terminate(&superuser, Service::Order).await;
        fixture
            .rows("select count(*) from pg_stat_activity where usename = 'order_app'")
            .await
            == 0
    })
    .await;
    let refused = fixture.place(self_pay_order("tok_visa")).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "DATABASE_UNAVAILABLE"),
        "{refused}"
    );
    // The log has the error, but no password.
    let log = || std::fs::read_to_string(fixture.stack.folder().join("order.log")).unwrap();
    eventually(SOON, || async {
        let log = log();
        let mut down = log.lines().filter(|line| line.contains("a dependency is down"));
        down.any(|line| line.contains("password authentication failed for user"))
    })
    .await;
    let _ = placing.await.unwrap();

    execute(&superuser, format!("alter role order_app password '{KNOWN}'")).await;
    readiness(&fixture.stack, Service::Order, ServingStatus::Serving).await;
    let confirmed = "select count(*) from orders.placed_order where state = 'confirmed'";
    eventually(SOON, || async { fixture.rows(confirmed).await == 1 }).await;
    let order = fixture.place(request).await.unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    assert_eq!(fixture.money_of(&order.id).await, (30, 0, 0));
    assert_eq!(fixture.rows("select count(*) from orders.placed_order").await, 1);
    eventually(SOON, || async {
        fixture.rows("select count(*) from events.outbox").await == 0
    })
    .await;
    for secret in [KNOWN, CHANGED] {
        assert!(!log().contains(secret), "{}", log());
    }
}

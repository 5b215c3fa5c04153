//! A database that is there and cannot be used: calls are refused as to be repeated, and go on by themselves afterwards.

use std::time::Duration;

use proto::claims::v1::{WithdrawClaimRequest, claim_service_client::ClaimServiceClient};
use sqlx::PgPool;
use tests::{Options, Service, Stack, eventually, stack::Client};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

/// Writes of the service fail as those of a server without disk space do. The code is raised by a trigger, because a disk
/// that is full cannot be had everywhere.
const DISK_FULL: [&str; 2] = [
    "create function chassis.disk_full() returns trigger language plpgsql as
     $$ begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$",
    "create trigger disk_full before insert on chassis.idempotency
     for each row execute function chassis.disk_full()",
];

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

async fn execute(pool: &PgPool, statement: &'static str) {
    sqlx::query(statement).execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_unavailable_to_callers_and_says_nothing_of_the_database() {
    let (stack, claims) = claims().await;
    withdraw(&claims).await.unwrap();
    let owner = stack.database(Service::Claims).owner().await;
    for statement in DISK_FULL {
        execute(&owner, statement).await;
    }
    let refused = withdraw(&claims).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "DATABASE_UNAVAILABLE");
    assert!(details.retry_info().is_some());
    assert!(!refused.message().contains("extend"), "{refused}");
    execute(&owner, "drop trigger disk_full on chassis.idempotency").await;
    withdraw(&claims).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_terminated_again_and_again_cost_calls_and_never_the_service() {
    let (stack, claims) = claims().await;
    let superuser = stack.database(Service::Claims).superuser().await;
    for _ in 0..10 {
        withdraw(&claims).await.unwrap();
        let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
                         where datname = current_database() and usename = 'claims_app'";
        execute(&superuser, terminate).await;
        eventually(Duration::from_secs(30), || async {
            match withdraw(&claims).await {
                Err(status) if status.code() != Code::Unavailable => panic!("{status}"),
                ended => ended,
            }
        })
        .await;
    }
}

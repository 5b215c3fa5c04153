//! Fixture for concurrent claims: many calls at once, and transactions that are blocked.

use std::time::Duration;

use futures_util::future::join_all;
use proto::claims::v1::{
    Claim, ClaimDetails, PrepareClaimRequest, SubmitClaimRequest, claim_service_client::ClaimServiceClient,
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, PgPool, Postgres, Transaction};
use tests::{eventually, stack::Client};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    claims_fixture::{Fixture, prepare, reason},
    samples,
};

pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const FILED: &str = "select count(*) from claims.sandbox_filing where filed_at is not null";
pub(crate) const HELD: &str = "select count(*) from claims.claim where filing_until is not null";
pub(crate) const ACCEPTED: &str = "select count(*) from claims.claim where state = 'ACCEPTED'";

pub(crate) fn draft_of(payer: &str) -> PrepareClaimRequest {
    prepare(ClaimDetails {
        payer_id: payer.to_owned(),
        ..samples::claim(&format!("CLM-{}", Uuid::new_v4().simple()))
    })
}

pub(crate) async fn send_drafts(
    fixture: &Fixture,
    requests: &[PrepareClaimRequest],
) -> Vec<Result<Claim, Status>> {
    let calls = requests
        .iter()
        .map(|request| send_draft(fixture.claims.clone(), request.clone()));
    join_all(calls).await
}

pub(crate) async fn send_draft(
    mut claims: ClaimServiceClient<Client>,
    request: PrepareClaimRequest,
) -> Result<Claim, Status> {
    let answer = claims.prepare_claim(request).await?;
    Ok(answer.into_inner().claim.unwrap())
}

pub(crate) async fn send_submissions(
    fixture: &Fixture,
    requests: &[SubmitClaimRequest],
) -> Vec<Result<Claim, Status>> {
    let calls = requests
        .iter()
        .map(|request| send_submission(fixture.claims.clone(), request.clone()));
    join_all(calls).await
}

pub(crate) async fn send_submission(
    mut claims: ClaimServiceClient<Client>,
    request: SubmitClaimRequest,
) -> Result<Claim, Status> {
    let answer = claims.submit_claim(request).await?;
    Ok(answer.into_inner().claim.unwrap())
}

pub(crate) async fn drafts(fixture: &Fixture, payers: &[&str]) -> Vec<Claim> {
    let requests: Vec<_> = payers.iter().map(|payer| draft_of(payer)).collect();
    let drafts = send_drafts(fixture, &requests).await;
    drafts.into_iter().map(Result::unwrap).collect()
}

/// Repeats the same submissions until each of them has succeeded.
pub(crate) async fn submit_until_all_succeed(
    fixture: &Fixture,
    requests: &[SubmitClaimRequest],
) -> Vec<Claim> {
    eventually(SOON, || async {
        let answers = send_submissions(fixture, requests).await;
        answers.into_iter().collect::<Result<Vec<_>, _>>()
    })
    .await
}

pub(crate) fn refusal(answer: &Result<Claim, Status>) -> (Code, String) {
    let status = answer.as_ref().unwrap_err();
    (status.code(), reason(status))
}

pub(crate) async fn execute(conn: &mut PgConnection, sql: &str) {
    conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

/// Slows down every transaction of the service, so that others wait behind it.
pub(crate) async fn slow_down(pool: &PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    let function = "create function public.take_a_while() returns trigger language plpgsql
        as $$ begin perform pg_sleep(0.03); return null; end $$";
    execute(&mut conn, function).await;
    for (table, change) in [
        ("chassis.idempotency", "insert"),
        ("claims.sandbox_filing", "insert"),
        ("claims.claim", "update"),
    ] {
        let trigger = format!(
            "create trigger slow after {change} on {table} for each statement execute function public.take_a_while()"
        );
        execute(&mut conn, &trigger).await;
    }
}

/// Waits until a transaction of the service waits for a lock.
pub(crate) async fn blocked(fixture: &Fixture) {
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and usename = 'claims_app'
        and datname = current_database()";
    eventually(SOON, || async { fixture.count(waiting).await > 0 }).await;
}

/// Blocks the first transaction that prepares a claim of this order.
pub(crate) async fn hold_order(
    pool: &PgPool,
    request: &PrepareClaimRequest,
) -> Transaction<'static, Postgres> {
    let (high, low) = Uuid::parse_str(&request.order_id).unwrap().as_u64_pair();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind((high ^ low).cast_signed())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

/// Blocks the first transaction that locks this claim.
pub(crate) async fn hold_claim(pool: &PgPool, claim: &Claim) -> Transaction<'static, Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select from claims.claim where id = $1 for update")
        .bind(Uuid::parse_str(&claim.id).unwrap())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

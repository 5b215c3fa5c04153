//! Claims that are prepared and submitted at the same time share their transactions, and none of them suffers from another.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use proto::claims::v1::{
    Claim, ClaimDetails, ClaimState, PrepareClaimRequest, SubmitClaimRequest, WithdrawClaimRequest,
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, PgPool, Postgres, Transaction};
use tests::{Options, Service, eventually};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    claims_rig::{Rig, prepare, reason, submit},
    samples,
};

const SOON: Duration = Duration::from_secs(30);
const FILED: &str = "select count(*) from claims.sandbox_filing where filed_at is not null";
const HELD: &str = "select count(*) from claims.claim where filing_until is not null";
const ACCEPTED: &str = "select count(*) from claims.claim where state = 'ACCEPTED'";

fn draft_of(payer: &str) -> PrepareClaimRequest {
    prepare(ClaimDetails {
        payer_id: payer.to_owned(),
        ..samples::claim(&format!("CLM-{}", Uuid::new_v4().simple()))
    })
}

async fn send_drafts(rig: &Rig, requests: &[PrepareClaimRequest]) -> Vec<Result<Claim, Status>> {
    let calls = requests.iter().cloned().map(|request| {
        let mut claims = rig.claims.clone();
        async move {
            let answer = claims.prepare_claim(request).await?;
            Ok(answer.into_inner().claim.unwrap())
        }
    });
    join_all(calls).await
}

async fn send_submissions(rig: &Rig, requests: &[SubmitClaimRequest]) -> Vec<Result<Claim, Status>> {
    let calls = requests.iter().cloned().map(|request| {
        let mut claims = rig.claims.clone();
        async move {
            let answer = claims.submit_claim(request).await?;
            Ok(answer.into_inner().claim.unwrap())
        }
    });
    join_all(calls).await
}

async fn drafts(rig: &Rig, payers: &[&str]) -> Vec<Claim> {
    let requests: Vec<_> = payers.iter().map(|payer| draft_of(payer)).collect();
    let drafts = send_drafts(rig, &requests).await;
    drafts.into_iter().map(Result::unwrap).collect()
}

/// Sends the same submissions until each of them has succeeded.
async fn insist(rig: &Rig, requests: &[SubmitClaimRequest]) -> Vec<Claim> {
    eventually(SOON, || async {
        let answers = send_submissions(rig, requests).await;
        answers.into_iter().collect::<Result<Vec<_>, _>>()
    })
    .await
}

fn refusal(answer: &Result<Claim, Status>) -> (Code, String) {
    let status = answer.as_ref().unwrap_err();
    (status.code(), reason(status))
}

async fn execute(conn: &mut PgConnection, sql: &str) {
    conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

/// Every transaction of the service takes a while, so that others wait behind it.
async fn slow_down(pool: &PgPool) {
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
async fn blocked(rig: &Rig) {
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and usename = 'claims_app'
        and datname = current_database()";
    eventually(SOON, || async { rig.count(waiting).await > 0 }).await;
}

/// Holds the first transaction that prepares a claim of this order.
async fn hold_order(pool: &PgPool, request: &PrepareClaimRequest) -> Transaction<'static, Postgres> {
    let (high, low) = Uuid::parse_str(&request.order_id).unwrap().as_u64_pair();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind((high ^ low).cast_signed())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

/// Holds the first transaction that locks this claim.
async fn hold_claim(pool: &PgPool, claim: &Claim) -> Transaction<'static, Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select from claims.claim where id = $1 for update")
        .bind(Uuid::parse_str(&claim.id).unwrap())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_number_and_a_withdrawn_order_among_64_drafts_are_refused_alone() {
    let rig = Rig::start().await;
    let known = drafts(&rig, &["TEST-INS-1"]).await.remove(0);
    let withdrawn = WithdrawClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: Uuid::new_v4().to_string(),
        reason: "cancelled".to_owned(),
    };
    rig.claims
        .clone()
        .withdraw_claim(withdrawn.clone())
        .await
        .unwrap();

    let mut requests: Vec<_> = (0..64).map(|_| draft_of("TEST-INS-1")).collect();
    let details = requests[20].details.as_mut().unwrap();
    details.claim_id = known.details.unwrap().claim_id;
    requests[40].order_id.clone_from(&withdrawn.order_id);
    requests[50].order_id.clone_from(&known.order_id);

    // While the first transaction is held up, 64 fill the next one.
    let first = draft_of("TEST-INS-1");
    let pool = rig.stack.database(Service::Claims).superuser().await;
    let held = hold_order(&pool, &first).await;
    let mut claims = rig.claims.clone();
    let waits = tokio::spawn(async move { claims.prepare_claim(first).await });
    blocked(&rig).await;
    let answers = send_drafts(&rig, &requests).await;
    held.rollback().await.unwrap();
    waits.await.unwrap().unwrap();

    assert_eq!(
        refusal(&answers[20]),
        (Code::AlreadyExists, "CLAIM_KNOWN".to_owned())
    );
    assert_eq!(
        refusal(&answers[40]),
        (Code::FailedPrecondition, "ORDER_WITHDRAWN".to_owned())
    );
    assert_eq!(
        refusal(&answers[50]),
        (Code::AlreadyExists, "ORDER_BILLED".to_owned())
    );
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 61);
    // The one of before, the one that was held up, and 61 in one transaction.
    let count = "select count(*) from claims.claim";
    assert_eq!(rig.count(count).await, 63);
    let transactions = "select count(distinct xmin::text) from claims.claim";
    assert_eq!(rig.count(transactions).await, 3);
    let keys = "select count(*) from chassis.idempotency where method like '%/PrepareClaim'";
    assert_eq!(rig.count(keys).await, 63);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_among_64_submissions_leaves_no_lease_behind() {
    let rig = Rig::start().await;
    let drafts = drafts(&rig, &["TEST-INS-1"; 64]).await;
    let withdrawal = WithdrawClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: drafts[10].order_id.clone(),
        reason: "cancelled".to_owned(),
    };
    rig.claims.clone().withdraw_claim(withdrawal).await.unwrap();
    let earlier = submit(&drafts[63]);
    rig.claims.clone().submit_claim(earlier.clone()).await.unwrap();

    // [10] is withdrawn, [20] is known to nobody, [30] comes with the id of another request, [63] is repeated.
    let mut requests: Vec<_> = drafts.iter().map(submit).collect();
    requests[20].id = Uuid::new_v4().to_string();
    requests[30].request_id.clone_from(&earlier.request_id);
    requests[63] = earlier;
    let others = requests.split_off(1);
    let pool = rig.stack.database(Service::Claims).superuser().await;
    let held = hold_claim(&pool, &drafts[0]).await;
    let mut claims = rig.claims.clone();
    let first = requests.remove(0);
    let waits = tokio::spawn(async move { claims.submit_claim(first).await });
    blocked(&rig).await;
    // 63 wait for the second transaction, which the 64th fills.
    let last = Uuid::new_v4().to_string();
    let unknown = SubmitClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        id: last,
    };
    let sent = [others, vec![unknown]].concat();
    let answers = send_submissions(&rig, &sent).await;
    held.rollback().await.unwrap();
    waits.await.unwrap().unwrap();

    let answer = |number: usize| &answers[number - 1];
    assert_eq!(
        refusal(answer(10)),
        (Code::FailedPrecondition, "WRONG_STATE".to_owned())
    );
    assert_eq!(refusal(answer(20)).0, Code::NotFound);
    assert_eq!(refusal(answer(64)).0, Code::NotFound);
    assert_eq!(
        refusal(answer(30)),
        (Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED".to_owned())
    );
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 60);
    assert_eq!(rig.get(&drafts[30].id).await, drafts[30]);
    let untouched = format!(
        "select filing_epoch from claims.claim where filing_until is null and id = '{}'",
        drafts[30].id
    );
    assert_eq!(rig.count(&untouched).await, 0);
    assert_eq!(rig.count(HELD).await, 0);
    let submitted = insist(&rig, &[submit(&drafts[30]), submit(&drafts[20])]).await;
    assert!(
        submitted
            .iter()
            .all(|claim| claim.state() == ClaimState::Accepted)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_among_64_withdrawals_is_refused_alone() {
    let options = Options::default().set(Service::Claims, "sandbox.slow_ms", "600000");
    let rig = Rig::with(options.set(Service::Claims, "post_office.timeout_ms", "60000")).await;
    let mut payers = ["TEST-INS-1"; 64];
    payers[20] = "SANDBOX-SLOW";
    let drafts = drafts(&rig, &payers).await;
    let withdrawal = |order_id: &str| WithdrawClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: order_id.to_owned(),
        reason: "cancelled".to_owned(),
    };
    let send = |request: WithdrawClaimRequest| {
        let mut claims = rig.claims.clone();
        async move {
            let answer = claims.withdraw_claim(request).await?.into_inner();
            Ok::<_, Status>(answer.claim)
        }
    };
    // [10] was withdrawn before by the same request, [30] comes with the id of that one, [20] is with the post office.
    let mut requests: Vec<_> = drafts.iter().map(|draft| withdrawal(&draft.order_id)).collect();
    let earlier = send(requests[10].clone()).await.unwrap();
    requests[30].request_id = requests[10].request_id.clone();
    let (mut claims, request) = (rig.claims.clone(), submit(&drafts[20]));
    let silent = tokio::spawn(async move { claims.submit_claim(request).await });
    eventually(SOON, || async { rig.count(FILED).await == 1 }).await;
    // No claim of this order has arrived.
    let late = draft_of("TEST-INS-1");
    requests.push(withdrawal(&late.order_id));

    let first = requests.remove(0);
    let pool = rig.stack.database(Service::Claims).superuser().await;
    let held = hold_claim(&pool, &drafts[0]).await;
    let waits = tokio::spawn(send(first));
    blocked(&rig).await;
    let answers = join_all(requests.into_iter().map(send)).await;
    held.rollback().await.unwrap();
    waits.await.unwrap().unwrap();
    silent.abort();

    let status = |number: usize| {
        let status = answers[number - 1].as_ref().unwrap_err();
        (status.code(), reason(status))
    };
    assert_eq!(status(20), (Code::Aborted, "FILING_IN_PROGRESS".to_owned()));
    assert_eq!(
        status(30),
        (Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED".to_owned())
    );
    assert_eq!(answers[9].as_ref().unwrap(), &earlier);
    assert_eq!(answers[63].as_ref().unwrap(), &None);
    for (number, answer) in answers.iter().enumerate() {
        let claim = answer.as_ref().ok().and_then(Option::as_ref);
        assert!(
            claim.is_none_or(|claim| claim.state() == ClaimState::Withdrawn),
            "{number}"
        );
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 62);
    assert_eq!(rig.get(&drafts[30].id).await, drafts[30]);
    let withdrawn = "select count(*) from claims.claim where state = 'WITHDRAWN'";
    assert_eq!(rig.count(withdrawn).await, 62);
    // The earlier one, the one that was held up, and 60 in one transaction.
    let transactions = "select count(distinct xmin::text) from claims.claim where state = 'WITHDRAWN'";
    assert_eq!(rig.count(transactions).await, 3);
    let told = "select count(*) from events.event_log where type = 'claims.v1.ClaimWithdrawn'";
    assert_eq!(rig.count(told).await, 62);
    let refused = send_drafts(&rig, &[late]).await;
    assert_eq!(
        refusal(&refused[0]),
        (Code::FailedPrecondition, "ORDER_WITHDRAWN".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_share_the_transactions_of_their_claims() {
    const CALLERS: usize = 64;
    const CLAIMS_OF_ONE: usize = 3;
    let rig = Rig::start().await;
    let pool = rig.stack.database(Service::Claims).superuser().await;
    slow_down(&pool).await;
    let file = async |rig: &Rig| {
        let drafted = drafts(rig, &["TEST-INS-1"]).await;
        rig.claims
            .clone()
            .submit_claim(submit(&drafted[0]))
            .await
            .unwrap();
    };
    let transactions = [
        "select count(distinct xmin::text) from chassis.idempotency where method like '%/PrepareClaim'",
        "select count(distinct xmin::text) from claims.sandbox_filing",
        "select count(distinct xmin::text) from claims.claim",
    ];
    for _ in 0..4 {
        file(&rig).await;
    }
    for transactions in transactions {
        assert_eq!(rig.count(transactions).await, 4, "one caller shares with nobody");
    }
    let callers = (0..CALLERS).map(|_| async {
        for _ in 0..CLAIMS_OF_ONE {
            file(&rig).await;
        }
    });
    join_all(callers).await;
    let claims = (CALLERS * CLAIMS_OF_ONE) as i64;
    assert_eq!(rig.count(ACCEPTED).await, claims + 4);
    for transactions in transactions {
        let shared = rig.count(transactions).await - 4;
        assert!(
            shared * 3 < claims,
            "{shared} transactions for {claims} claims: {transactions}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_that_were_killed_in_flight_are_finished_once_each() {
    let options = Options::default().set(Service::Claims, "sandbox.slow_ms", "600");
    let rig = Rig::with(options.set(Service::Claims, "post_office.timeout_ms", "1000")).await;
    let drafts = drafts(&rig, &["SANDBOX-SLOW"; 48]).await;
    let requests: Vec<_> = drafts.iter().map(submit).collect();
    // All have been called when it is killed; some may have been answered.
    let (cut_short, ()) = tokio::join!(send_submissions(&rig, &requests), async {
        eventually(SOON, || async { rig.count(FILED).await == 48 }).await;
        rig.stack.kill9(Service::Claims);
    });
    assert!(cut_short.iter().any(Result::is_err));
    rig.stack.restart(Service::Claims).await;
    finished_once(&rig, &requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_whose_outcomes_were_being_written_at_a_kill_are_finished_once_each() {
    let rig = Rig::with(Options::default().set(Service::Claims, "post_office.timeout_ms", "1000")).await;
    let drafts = drafts(&rig, &["TEST-INS-1"; 48]).await;
    let pool = rig.stack.database(Service::Claims).superuser().await;
    slow_down(&pool).await;
    let requests: Vec<_> = drafts.iter().map(submit).collect();
    let (cut_short, ()) = tokio::join!(send_submissions(&rig, &requests), async {
        eventually(SOON, || async { rig.count(ACCEPTED).await > 0 }).await;
        rig.stack.kill9(Service::Claims);
    });
    rig.stack.restart(Service::Claims).await;
    let finished = finished_once(&rig, &requests).await;
    // What was answered before is answered again.
    for (before, after) in cut_short.into_iter().zip(finished) {
        assert!(before.is_err() || before.unwrap() == after);
    }
}

async fn finished_once(rig: &Rig, requests: &[SubmitClaimRequest]) -> Vec<Claim> {
    let finished = insist(rig, requests).await;
    let claims: BTreeSet<_> = finished.iter().map(|claim| claim.id.clone()).collect();
    let wanted: BTreeSet<_> = requests.iter().map(|request| request.id.clone()).collect();
    assert_eq!(claims, wanted);
    assert!(
        finished
            .iter()
            .all(|claim| (claim.state(), claim.cycle) == (ClaimState::Accepted, 1))
    );
    let count = requests.len() as i64;
    assert_eq!(rig.count(FILED).await, count);
    // Prepared, submitted, accepted.
    assert_eq!(
        rig.count("select count(*) from events.event_log").await,
        3 * count
    );
    finished
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_office_that_is_silent_or_down_for_some_holds_up_none_of_the_others() {
    let options = Options::default()
        .set(Service::Claims, "sandbox.slow_ms", "600000")
        .set(Service::Claims, "sandbox.down_calls", "1")
        .set(Service::Claims, "post_office.timeout_ms", "3000");
    let rig = Rig::with(options).await;
    let payer = |number: usize| match number % 8 {
        0 => "SANDBOX-SLOW",
        1 => "SANDBOX-DOWN",
        _ => "TEST-INS-1",
    };
    let payers: Vec<_> = (0..32).map(payer).collect();
    let drafts = drafts(&rig, &payers).await;
    let requests: Vec<_> = drafts.iter().map(submit).collect();
    let answers = send_submissions(&rig, &requests).await;
    for ((draft, payer), answer) in drafts.iter().zip(payers).zip(&answers) {
        if payer == "TEST-INS-1" {
            assert_eq!(answer.as_ref().unwrap().state(), ClaimState::Accepted);
        } else {
            let unavailable = (Code::Unavailable, "POST_OFFICE_UNAVAILABLE".to_owned());
            assert_eq!(refusal(answer), unavailable);
            assert_eq!(rig.get(&draft.id).await, *draft);
        }
    }
    assert_eq!(rig.count(HELD).await, 0, "all are given back");
    // Those that were refused go on.
    let down: Vec<_> = requests.iter().skip(1).step_by(8).cloned().collect();
    let taken = insist(&rig, &down).await;
    assert!(taken.iter().all(|claim| claim.state() == ClaimState::Accepted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_service_finishes_the_submissions_that_it_has_begun() {
    let rig = Rig::start().await;
    let drafts = drafts(&rig, &["TEST-INS-1"; 64]).await;
    let pool = rig.stack.database(Service::Claims).superuser().await;
    slow_down(&pool).await;
    let requests: Vec<_> = drafts.iter().map(submit).collect();
    let (answers, ()) = tokio::join!(send_submissions(&rig, &requests), async {
        eventually(SOON, || async { rig.count(HELD).await > 0 }).await;
        assert!(rig.stack.stop(Service::Claims).await.success());
    });
    assert_eq!(rig.count(HELD).await, 0, "what was begun is finished");
    let answered = answers.iter().filter(|answer| answer.is_ok()).count() as i64;
    assert_eq!(rig.count(ACCEPTED).await, answered);
    rig.stack.restart(Service::Claims).await;
    finished_once(&rig, &requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_that_fails_for_good_ends_no_lease_of_another() {
    let rig = Rig::with(Options::default().set(Service::Claims, "post_office.poll_ms", "50")).await;
    let claim = drafts(&rig, &["TEST-INS-1"]).await.remove(0);
    let pool = rig.stack.database(Service::Claims).superuser().await;
    let mut tx = hold_claim(&pool, &claim).await;
    // Due, with details that nobody can read.
    let due = format!(
        "update claims.claim set state = 'SUBMITTED', submitted_at = now(), next_filing_at = now() - interval '1 hour',
             details = '\\xff' where id = '{}'",
        claim.id
    );
    execute(&mut tx, &due).await;
    // In the queue for the row before the follow-up, which cannot see yet that the claim is due.
    let (queued, other) = (pool.clone(), claim.clone());
    let other = tokio::spawn(async move { hold_claim(&queued, &other).await });
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    eventually(SOON, || async { rig.count(waiting).await == 1 }).await;
    tx.commit().await.unwrap();
    let mut tx = other.await.unwrap();
    blocked(&rig).await;
    let lease = format!(
        "update claims.claim set filing_epoch = filing_epoch + 1, filing_until = now() + interval '1 hour' where id = '{}'",
        claim.id
    );
    execute(&mut tx, &lease).await;
    tx.commit().await.unwrap();

    let failed = || {
        rig.stack
            .log(Service::Claims)
            .contains("a claim cannot be followed up")
    };
    eventually(SOON, || async { failed() }).await;
    // It has set the claim aside by the time it has stopped.
    assert!(rig.stack.stop(Service::Claims).await.success());
    let held = "select count(*) from claims.claim where filing_until > now() + interval '30 minutes'";
    assert_eq!(rig.count(held).await, 1);
}

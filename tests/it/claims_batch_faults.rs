//! Many submissions in flight during kills, stops, and a post office that does not answer some of them.

use std::collections::BTreeSet;

use proto::claims::v1::{Claim, ClaimState, SubmitClaimRequest};
use tests::{Options, Service, eventually};
use tonic::Code;

use crate::{
    claims_batch_fixture::{
        ACCEPTED, FILED, HELD, SOON, blocked, drafts, execute, hold_claim, refusal, send_submissions,
        slow_down, submit_until_all_succeed,
    },
    claims_fixture::{Fixture, submit},
};

#[tokio::test(flavor = "multi_thread")]
async fn submissions_interrupted_by_a_kill_are_each_finished_once() {
    let options = Options::default().set(Service::Claims, "sandbox.slow_ms", "600");
    let fixture = Fixture::with(options.set(Service::Claims, "post_office.timeout_ms", "1000")).await;
    let drafts = drafts(&fixture, &["SANDBOX-SLOW"; 48]).await;
    let requests: Vec<_> = drafts.iter().map(submit).collect();
    // All requests have been sent when it is killed; some may have been answered.
    let (cut_short, ()) = tokio::join!(send_submissions(&fixture, &requests), async {
        eventually(SOON, || async { fixture.count(FILED).await == 48 }).await;
        fixture.stack.kill9(Service::Claims);
    });
    assert!(cut_short.iter().any(Result::is_err));
    fixture.stack.restart(Service::Claims).await;
    finished_once(&fixture, &requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_killed_while_their_outcomes_are_written_are_each_finished_once() {
    let fixture =
        Fixture::with(Options::default().set(Service::Claims, "post_office.timeout_ms", "1000")).await;
    let drafts = drafts(&fixture, &["TEST-INS-1"; 48]).await;
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    slow_down(&pool).await;
    let requests: Vec<_> = drafts.iter().map(submit).collect();
    let (cut_short, ()) = tokio::join!(send_submissions(&fixture, &requests), async {
        eventually(SOON, || async { fixture.count(ACCEPTED).await > 0 }).await;
        fixture.stack.kill9(Service::Claims);
    });
    fixture.stack.restart(Service::Claims).await;
    let finished = finished_once(&fixture, &requests).await;
    // Requests that were answered before get the same answer.
    for (before, after) in cut_short.into_iter().zip(finished) {
        assert!(before.is_err() || before.unwrap() == after);
    }
}

async fn finished_once(fixture: &Fixture, requests: &[SubmitClaimRequest]) -> Vec<Claim> {
    let finished = submit_until_all_succeed(fixture, requests).await;
    let claims: BTreeSet<_> = finished.iter().map(|claim| claim.id.clone()).collect();
    let wanted: BTreeSet<_> = requests.iter().map(|request| request.id.clone()).collect();
    assert_eq!(claims, wanted);
    assert!(
        finished
            .iter()
            .all(|claim| (claim.state(), claim.cycle) == (ClaimState::Accepted, 1))
    );
    let count = requests.len() as i64;
    assert_eq!(fixture.count(FILED).await, count);
    // Prepared, submitted, accepted.
    assert_eq!(
        fixture.count("select count(*) from events.event_log").await,
        3 * count
    );
    finished
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_office_that_fails_for_some_claims_delays_none_of_the_others() {
    let options = Options::default()
        .set(Service::Claims, "sandbox.slow_ms", "600000")
        .set(Service::Claims, "sandbox.down_calls", "1")
        .set(Service::Claims, "post_office.timeout_ms", "3000");
    let fixture = Fixture::with(options).await;
    let payer = |number: usize| match number % 8 {
        0 => "SANDBOX-SLOW",
        1 => "SANDBOX-DOWN",
        _ => "TEST-INS-1",
    };
    let payers: Vec<_> = (0..32).map(payer).collect();
    let drafts = drafts(&fixture, &payers).await;
    let requests: Vec<_> = drafts.iter().map(submit).collect();
    let answers = send_submissions(&fixture, &requests).await;
    for ((draft, payer), answer) in drafts.iter().zip(payers).zip(&answers) {
        if payer == "TEST-INS-1" {
            assert_eq!(answer.as_ref().unwrap().state(), ClaimState::Accepted);
        } else {
            let unavailable = (Code::Unavailable, "POST_OFFICE_UNAVAILABLE".to_owned());
            assert_eq!(refusal(answer), unavailable);
            assert_eq!(fixture.get(&draft.id).await, *draft);
        }
    }
    assert_eq!(fixture.count(HELD).await, 0, "all are given back");
    // The refused submissions continue.
    let down: Vec<_> = requests.iter().skip(1).step_by(8).cloned().collect();
    let taken = submit_until_all_succeed(&fixture, &down).await;
    assert!(taken.iter().all(|claim| claim.state() == ClaimState::Accepted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_service_finishes_the_submissions_that_it_has_begun() {
    let fixture = Fixture::start().await;
    let drafts = drafts(&fixture, &["TEST-INS-1"; 64]).await;
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    slow_down(&pool).await;
    let requests: Vec<_> = drafts.iter().map(submit).collect();
    let (answers, ()) = tokio::join!(send_submissions(&fixture, &requests), async {
        eventually(SOON, || async { fixture.count(HELD).await > 0 }).await;
        assert!(fixture.stack.stop(Service::Claims).await.success());
    });
    assert_eq!(fixture.count(HELD).await, 0, "what was begun is finished");
    let answered = answers.iter().filter(|answer| answer.is_ok()).count() as i64;
    assert_eq!(fixture.count(ACCEPTED).await, answered);
    fixture.stack.restart(Service::Claims).await;
    finished_once(&fixture, &requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanently_failing_follow_up_ends_no_lease_of_another_claim() {
    let fixture = Fixture::with(Options::default().set(Service::Claims, "post_office.poll_ms", "50")).await;
    let claim = drafts(&fixture, &["TEST-INS-1"]).await.remove(0);
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    let mut tx = hold_claim(&pool, &claim).await;
    // Makes the claim due, with details that cannot be decoded.
    let due = format!(
        "update claims.claim set state = 'SUBMITTED', submitted_at = now(), next_filing_at = now() - interval '1 hour',
             details = '\\xff' where id = '{}'",
        claim.id
    );
    execute(&mut tx, &due).await;
    // Queues for the row before the follow-up, which cannot see yet that the claim is due.
    let (queued, other) = (pool.clone(), claim.clone());
    let other = tokio::spawn(async move { hold_claim(&queued, &other).await });
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    eventually(SOON, || async { fixture.count(waiting).await == 1 }).await;
    tx.commit().await.unwrap();
    let mut tx = other.await.unwrap();
    blocked(&fixture).await;
    let lease = format!(
        "update claims.claim set filing_epoch = filing_epoch + 1, filing_until = now() + interval '1 hour' where id = '{}'",
        claim.id
    );
    execute(&mut tx, &lease).await;
    tx.commit().await.unwrap();

    let failed = || {
        fixture
            .stack
            .log(Service::Claims)
            .contains("a claim cannot be followed up")
    };
    eventually(SOON, || async { failed() }).await;
    // The follow-up has set the claim aside by the time the service has stopped.
    assert!(fixture.stack.stop(Service::Claims).await.success());
    let held = "select count(*) from claims.claim where filing_until > now() + interval '30 minutes'";
    assert_eq!(fixture.count(held).await, 1);
}

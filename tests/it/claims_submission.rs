//! Submission to the post office: refusals, outages, late answers, repetitions and crashes.

use std::time::Duration;

use futures_util::future::join_all;
use proto::claims::v1::{
    Claim, ClaimDetails, ClaimState, Resubmission, ResubmissionType, ResubmitClaimRequest,
};
use tests::{Options, Service, eventually};
use tonic::Code;
use uuid::Uuid;

use crate::{
    claims_fixture::{Fixture, prepare, reason, submit},
    samples,
};

const SOON: Duration = Duration::from_secs(20);
const FILED: &str = "select count(*) from claims.sandbox_filing where filed_at is not null";

fn for_payer(payer: &str) -> ClaimDetails {
    ClaimDetails {
        payer_id: payer.to_owned(),
        ..samples::claim("CLM-1")
    }
}

async fn draft(fixture: &Fixture, payer: &str) -> Claim {
    let prepared = fixture
        .claims
        .clone()
        .prepare_claim(prepare(for_payer(payer)))
        .await
        .unwrap();
    prepared.into_inner().claim.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_claim_has_a_reason_and_is_submitted_again_in_the_next_cycle() {
    let fixture = Fixture::start().await;
    let rejected = fixture.filed(for_payer("SANDBOX-REJECT")).await;
    assert_eq!(rejected.state(), ClaimState::Rejected);
    assert!(rejected.rejection.contains("SANDBOX-REJECT"));

    let again = ResubmitClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        id: rejected.id.clone(),
        resubmission: Some(Resubmission {
            r#type: ResubmissionType::Reconciliation.into(),
            comment: "the right payer".to_owned(),
            attachment: Vec::new(),
        }),
        details: Some(for_payer("TEST-INS-1")),
    };
    let answers = join_all((0..8).map(|_| {
        let (mut claims, again) = (fixture.claims.clone(), again.clone());
        async move {
            claims
                .resubmit_claim(again)
                .await
                .unwrap()
                .into_inner()
                .claim
                .unwrap()
        }
    }))
    .await;
    assert_eq!(
        (
            answers[0].state(),
            answers[0].cycle,
            answers[0].rejection.as_str()
        ),
        (ClaimState::Accepted, 2, "")
    );
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(fixture.count("select count(*) from claims.resubmission").await, 1);
    // One submission for each cycle.
    assert_eq!(fixture.count(FILED).await, 2);

    let wrong = fixture
        .claims
        .clone()
        .submit_claim(submit(&rejected))
        .await
        .unwrap_err();
    assert_eq!(
        (wrong.code(), reason(&wrong).as_str()),
        (Code::FailedPrecondition, "WRONG_STATE")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_during_a_post_office_outage_changes_nothing_and_its_retry_continues() {
    let fixture = Fixture::start().await;
    let draft = draft(&fixture, "SANDBOX-DOWN").await;
    let request = submit(&draft);
    for _ in 0..2 {
        let down = fixture
            .claims
            .clone()
            .submit_claim(request.clone())
            .await
            .unwrap_err();
        assert_eq!(
            (down.code(), reason(&down).as_str()),
            (Code::Unavailable, "POST_OFFICE_UNAVAILABLE")
        );
        assert_eq!(fixture.get(&draft.id).await, draft);
    }
    let filed = fixture
        .claims
        .clone()
        .submit_claim(request)
        .await
        .unwrap()
        .into_inner()
        .claim
        .unwrap();
    assert_eq!(filed.state(), ClaimState::Accepted);
    assert_eq!(fixture.count(FILED).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_claim_is_acknowledged_later_by_itself() {
    let options = Options::default().set(Service::Claims, "sandbox.acknowledge_after_ms", "500");
    let fixture = Fixture::with(options.set(Service::Claims, "post_office.ask_again_ms", "50")).await;
    let pending = fixture.filed(for_payer("SANDBOX-PENDING")).await;
    assert_eq!(pending.state(), ClaimState::Submitted);
    eventually(SOON, || async {
        fixture.get(&pending.id).await.state() == ClaimState::Accepted
    })
    .await;
    let published = "select count(*) from events.event_log where type = 'claims.v1.ClaimAccepted'";
    assert_eq!(fixture.count(published).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_equal_requests_have_one_effect_and_equal_answers() {
    let fixture = Fixture::start().await;
    let request = prepare(samples::claim("CLM-1"));
    let prepared = join_all((0..32).map(|_| {
        let (mut claims, request) = (fixture.claims.clone(), request.clone());
        async move {
            claims
                .prepare_claim(request)
                .await
                .unwrap()
                .into_inner()
                .claim
                .unwrap()
        }
    }))
    .await;
    assert!(prepared.iter().all(|claim| *claim == prepared[0]));

    let request = submit(&prepared[0]);
    let submitted = join_all((0..32).map(|_| {
        let (mut claims, request) = (fixture.claims.clone(), request.clone());
        async move {
            claims
                .submit_claim(request)
                .await
                .unwrap()
                .into_inner()
                .claim
                .unwrap()
        }
    }))
    .await;
    assert!(submitted.iter().all(|claim| *claim == submitted[0]));
    assert_eq!(submitted[0].state(), ClaimState::Accepted);
    assert_eq!(fixture.count("select count(*) from claims.claim").await, 1);
    assert_eq!(
        fixture
            .count("select calls::bigint from claims.sandbox_filing")
            .await,
        1
    );
    assert_eq!(fixture.count("select count(*) from events.event_log").await, 3);

    let mut other = request;
    other.id = Uuid::new_v4().to_string();
    let reused = fixture.claims.clone().submit_claim(other).await.unwrap_err();
    assert_eq!(reason(&reused), "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_submission_was_killed_is_submitted_once_by_the_repeated_request() {
    let options = Options::default().set(Service::Claims, "sandbox.slow_ms", "600");
    let fixture = Fixture::with(options.set(Service::Claims, "post_office.timeout_ms", "1000")).await;
    let draft = draft(&fixture, "SANDBOX-SLOW").await;
    let request = submit(&draft);
    let cut_short = {
        let (mut claims, request) = (fixture.claims.clone(), request.clone());
        tokio::spawn(async move { claims.submit_claim(request).await })
    };
    eventually(SOON, || async { fixture.count(FILED).await == 1 }).await;
    fixture.stack.kill9(Service::Claims);
    assert!(cut_short.await.unwrap().is_err());
    fixture.stack.restart(Service::Claims).await;

    let filed = eventually(SOON, || async {
        let answer = fixture.claims.clone().submit_claim(request.clone()).await;
        answer.map(|answer| answer.into_inner().claim.unwrap())
    })
    .await;
    assert_eq!((filed.state(), filed.cycle), (ClaimState::Accepted, 1));
    assert_eq!(fixture.count(FILED).await, 1);
    assert_eq!(fixture.count("select count(*) from events.event_log").await, 3);
}

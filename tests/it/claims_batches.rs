//! Claims that are prepared, submitted and withdrawn concurrently share transactions, and a failing one does not
//! affect the others.

use futures_util::future::join_all;
use proto::claims::v1::{ClaimState, SubmitClaimRequest, WithdrawClaimRequest};
use tests::{Options, Service, eventually};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    claims_batch_fixture::{
        ACCEPTED, FILED, HELD, SOON, blocked, draft_of, drafts, hold_claim, hold_order, refusal, send_drafts,
        send_submissions, slow_down, submit_until_all_succeed,
    },
    claims_fixture::{Fixture, reason, submit},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_number_and_a_withdrawn_order_among_64_drafts_are_refused_alone() {
    let fixture = Fixture::start().await;
    let known = drafts(&fixture, &["TEST-INS-1"]).await.remove(0);
    let withdrawn = WithdrawClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: Uuid::new_v4().to_string(),
        reason: "cancelled".to_owned(),
    };
    fixture
        .claims
        .clone()
        .withdraw_claim(withdrawn.clone())
        .await
        .unwrap();

    let mut requests: Vec<_> = (0..64).map(|_| draft_of("TEST-INS-1")).collect();
    let details = requests[20].details.as_mut().unwrap();
    details.claim_id = known.details.unwrap().claim_id;
    requests[40].order_id.clone_from(&withdrawn.order_id);
    requests[50].order_id.clone_from(&known.order_id);

    // While the first transaction is blocked, 64 requests fill the next one.
    let first = draft_of("TEST-INS-1");
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    let held = hold_order(&pool, &first).await;
    let mut claims = fixture.claims.clone();
    let waits = tokio::spawn(async move { claims.prepare_claim(first).await });
    blocked(&fixture).await;
    let answers = send_drafts(&fixture, &requests).await;
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
    // The earlier one, the blocked one, and 61 in one transaction.
    let count = "select count(*) from claims.claim";
    assert_eq!(fixture.count(count).await, 63);
    let transactions = "select count(distinct xmin::text) from claims.claim";
    assert_eq!(fixture.count(transactions).await, 3);
    let keys = "select count(*) from chassis.idempotency where method like '%/PrepareClaim'";
    assert_eq!(fixture.count(keys).await, 63);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_among_64_submissions_leaves_no_lease_behind() {
    let fixture = Fixture::start().await;
    let drafts = drafts(&fixture, &["TEST-INS-1"; 64]).await;
    let withdrawal = WithdrawClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: drafts[10].order_id.clone(),
        reason: "cancelled".to_owned(),
    };
    fixture.claims.clone().withdraw_claim(withdrawal).await.unwrap();
    let earlier = submit(&drafts[63]);
    fixture
        .claims
        .clone()
        .submit_claim(earlier.clone())
        .await
        .unwrap();

    // [10] is withdrawn, [20] does not exist, [30] has the id of another request, [63] is repeated.
    let mut requests: Vec<_> = drafts.iter().map(submit).collect();
    requests[20].id = Uuid::new_v4().to_string();
    requests[30].request_id.clone_from(&earlier.request_id);
    requests[63] = earlier;
    let others = requests.split_off(1);
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    let held = hold_claim(&pool, &drafts[0]).await;
    let mut claims = fixture.claims.clone();
    let first = requests.remove(0);
    let waits = tokio::spawn(async move { claims.submit_claim(first).await });
    blocked(&fixture).await;
    // 63 wait for the second transaction, which the 64th fills.
    let last = Uuid::new_v4().to_string();
    let unknown = SubmitClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        id: last,
    };
    let sent = [others, vec![unknown]].concat();
    let answers = send_submissions(&fixture, &sent).await;
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
    assert_eq!(fixture.get(&drafts[30].id).await, drafts[30]);
    let untouched = format!(
        "select filing_epoch from claims.claim where filing_until is null and id = '{}'",
        drafts[30].id
    );
    assert_eq!(fixture.count(&untouched).await, 0);
    assert_eq!(fixture.count(HELD).await, 0);
    let submitted = submit_until_all_succeed(&fixture, &[submit(&drafts[30]), submit(&drafts[20])]).await;
    assert!(
        submitted
            .iter()
            .all(|claim| claim.state() == ClaimState::Accepted)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_among_64_withdrawals_is_refused_alone() {
    let options = Options::default().set(Service::Claims, "sandbox.slow_ms", "600000");
    let fixture = Fixture::with(options.set(Service::Claims, "post_office.timeout_ms", "60000")).await;
    let mut payers = ["TEST-INS-1"; 64];
    payers[20] = "SANDBOX-SLOW";
    let drafts = drafts(&fixture, &payers).await;
    let withdrawal = |order_id: &str| WithdrawClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: order_id.to_owned(),
        reason: "cancelled".to_owned(),
    };
    let send = |request: WithdrawClaimRequest| {
        let mut claims = fixture.claims.clone();
        async move {
            let answer = claims.withdraw_claim(request).await?.into_inner();
            Ok::<_, Status>(answer.claim)
        }
    };
    // [10] was withdrawn before by the same request, [30] has the id of that request, [20] is with the post
    // office.
    let mut requests: Vec<_> = drafts.iter().map(|draft| withdrawal(&draft.order_id)).collect();
    let earlier = send(requests[10].clone()).await.unwrap();
    requests[30].request_id = requests[10].request_id.clone();
    let (mut claims, request) = (fixture.claims.clone(), submit(&drafts[20]));
    let silent = tokio::spawn(async move { claims.submit_claim(request).await });
    eventually(SOON, || async { fixture.count(FILED).await == 1 }).await;
    // No claim of this order has arrived.
    let late = draft_of("TEST-INS-1");
    requests.push(withdrawal(&late.order_id));

    let first = requests.remove(0);
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    let held = hold_claim(&pool, &drafts[0]).await;
    let waits = tokio::spawn(send(first));
    blocked(&fixture).await;
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
    assert_eq!(fixture.get(&drafts[30].id).await, drafts[30]);
    let withdrawn = "select count(*) from claims.claim where state = 'WITHDRAWN'";
    assert_eq!(fixture.count(withdrawn).await, 62);
    // The earlier one, the blocked one, and 60 in one transaction.
    let transactions = "select count(distinct xmin::text) from claims.claim where state = 'WITHDRAWN'";
    assert_eq!(fixture.count(transactions).await, 3);
    let published = "select count(*) from events.event_log where type = 'claims.v1.ClaimWithdrawn'";
    assert_eq!(fixture.count(published).await, 62);
    let refused = send_drafts(&fixture, &[late]).await;
    assert_eq!(
        refusal(&refused[0]),
        (Code::FailedPrecondition, "ORDER_WITHDRAWN".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_share_the_transactions_of_their_claims() {
    const CALLERS: usize = 64;
    const CLAIMS_OF_ONE: usize = 3;
    let fixture = Fixture::start().await;
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    slow_down(&pool).await;
    let file = async |fixture: &Fixture| {
        let drafted = drafts(fixture, &["TEST-INS-1"]).await;
        fixture
            .claims
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
        file(&fixture).await;
    }
    for transactions in transactions {
        assert_eq!(
            fixture.count(transactions).await,
            4,
            "a single caller shares no transaction"
        );
    }
    let callers = (0..CALLERS).map(|_| async {
        for _ in 0..CLAIMS_OF_ONE {
            file(&fixture).await;
        }
    });
    join_all(callers).await;
    let claims = (CALLERS * CLAIMS_OF_ONE) as i64;
    assert_eq!(fixture.count(ACCEPTED).await, claims + 4);
    for transactions in transactions {
        let shared = fixture.count(transactions).await - 4;
        assert!(
            shared * 3 < claims,
            "{shared} transactions for {claims} claims: {transactions}"
        );
    }
}

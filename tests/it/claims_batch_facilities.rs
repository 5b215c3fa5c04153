//! Claims of two facilities in one transaction: neither reaches the other's rows.

use futures_util::future::join_all;
use proto::claims::v1::{ClaimState, WithdrawClaimRequest};
use tests::Service;
use tonic::Code;
use uuid::Uuid;

use crate::{
    claims_batch_fixture::{blocked, draft_of, drafts, hold_claim, hold_order, send_draft, send_submission},
    claims_fixture::{Fixture, submit},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_facilities_number_their_claims_alike_in_one_transaction() {
    let fixture = Fixture::start().await;
    let requests: Vec<_> = (0..32).map(|_| draft_of("TEST-INS-1")).collect();
    let alike = requests.iter().cloned().map(|request| {
        let mut other = draft_of("TEST-INS-1");
        other.details = request.details;
        other
    });
    let elsewhere: Vec<_> = alike.collect();
    let first = draft_of("TEST-INS-1");
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    let held = hold_order(&pool, &first).await;
    let waits = tokio::spawn(send_draft(fixture.claims.clone(), first));
    blocked(&fixture).await;
    let here = requests
        .into_iter()
        .map(|request| send_draft(fixture.claims.clone(), request));
    let there = elsewhere
        .into_iter()
        .map(|request| send_draft(fixture.elsewhere(), request));
    let (here, there) = tokio::join!(join_all(here), join_all(there));
    held.rollback().await.unwrap();
    waits.await.unwrap().unwrap();
    assert!(here.iter().chain(&there).all(Result::is_ok));
    // 64 in one transaction, and the one that was blocked.
    assert_eq!(
        fixture
            .count("select count(distinct xmin::text) from claims.claim")
            .await,
        2
    );
    let mine = "select count(*) from claims.claim where facility = 'al-qamar'";
    assert_eq!(fixture.count(mine).await, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_facilitys_claim_is_neither_submitted_nor_withdrawn_in_a_transaction_with_its_own() {
    let fixture = Fixture::start().await;
    let drafts = drafts(&fixture, &["TEST-INS-1"; 65]).await;
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    let held = hold_claim(&pool, &drafts[64]).await;
    let waits = tokio::spawn(send_submission(fixture.claims.clone(), submit(&drafts[64])));
    blocked(&fixture).await;
    let (own, foreign) = drafts[..64].split_at(32);
    let here = own
        .iter()
        .map(|draft| send_submission(fixture.claims.clone(), submit(draft)));
    let there = foreign
        .iter()
        .map(|draft| send_submission(fixture.elsewhere(), submit(draft)));
    let (here, there) = tokio::join!(join_all(here), join_all(there));
    held.rollback().await.unwrap();
    waits.await.unwrap().unwrap();
    assert!(
        here.iter()
            .all(|answer| answer.as_ref().unwrap().state() == ClaimState::Accepted)
    );
    assert!(
        there
            .iter()
            .all(|answer| answer.as_ref().unwrap_err().code() == Code::NotFound)
    );
    let untouched =
        "select count(*) from claims.claim where state = 'VALIDATED' and filing_epoch = 0 and version = 1";
    assert_eq!(fixture.count(untouched).await, 32);

    let withdraw = |mut claims: proto::claims::v1::claim_service_client::ClaimServiceClient<_>,
                    order_id: &str| {
        let request = WithdrawClaimRequest {
            request_id: Uuid::new_v4().to_string(),
            order_id: order_id.to_owned(),
            reason: "cancelled".to_owned(),
        };
        async move { claims.withdraw_claim(request).await.unwrap().into_inner().claim }
    };
    let held = hold_claim(&pool, &drafts[64]).await;
    let waits = tokio::spawn(withdraw(fixture.claims.clone(), &drafts[64].order_id));
    blocked(&fixture).await;
    let here = own
        .iter()
        .map(|draft| withdraw(fixture.claims.clone(), &draft.order_id));
    let there = foreign
        .iter()
        .map(|draft| withdraw(fixture.elsewhere(), &draft.order_id));
    let (here, there) = tokio::join!(join_all(here), join_all(there));
    held.rollback().await.unwrap();
    waits.await.unwrap();
    assert!(
        here.iter()
            .all(|claim| claim.as_ref().unwrap().state() == ClaimState::Withdrawn)
    );
    assert!(
        there.iter().all(Option::is_none),
        "it has no claim of these orders"
    );
    assert_eq!(fixture.count(untouched).await, 32);
    let tombstones = "select count(*) from claims.tombstone where facility = 'al-qamar'";
    assert_eq!(fixture.count(tombstones).await, 32);
}

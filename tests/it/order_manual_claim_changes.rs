//! Changes made to an order's claim at the claims service, outside the order's saga.

use proto::{
    claims::v1::{ClaimState, SubmitClaimRequest, WithdrawClaimRequest},
    ops::v1::{SagaState, SagaStepState},
    order::v1::{CaptureMode, Order, OrderState, PlaceOrderRequest, SettlementHold},
};

use crate::{
    order_fixture::{Fixture, fresh},
    samples::{aed, insured_order, line},
    stuck_saga_fixture::{becomes_stuck, begin_to_fulfil, stuck_soon},
};

/// Places and confirms an order whose claim is a draft.
async fn confirmed(fixture: &Fixture, request: PlaceOrderRequest) -> Order {
    let order = fixture
        .place(PlaceOrderRequest {
            capture_mode: CaptureMode::OnFulfilment.into(),
            ..request
        })
        .await
        .unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Validated
    );
    order
}

async fn submit_claim_of(fixture: &Fixture, order: &Order) -> ClaimState {
    let request = SubmitClaimRequest {
        request_id: fresh(),
        id: order.claim_id.clone(),
    };
    let answer = fixture.claims.clone().submit_claim(request).await.unwrap();
    answer.into_inner().claim.unwrap().state()
}

/// Asserts that the order ends fulfilled with its saga completed, and that the claim was submitted once.
async fn is_fulfilled(fixture: &Fixture, order: &Order) -> Order {
    let fulfilled = fixture.fulfil(&order.id).await.unwrap();
    assert_eq!(fulfilled.state(), OrderState::Fulfilled, "{fulfilled:?}");
    let saga = fixture.saga(&fulfilled.saga_id).await;
    assert_eq!(saga.state(), SagaState::Completed, "{saga:?}");
    let submitted = saga.steps.iter().find(|step| step.name == "submit_claim");
    assert_eq!(submitted.unwrap().state(), SagaStepState::Succeeded);
    assert_eq!(fixture.claims_of(&order.id).await[0].cycle, 1);
    fulfilled
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_claim_was_submitted_by_hand_is_fulfilled() {
    let fixture = Fixture::start().await;
    let order = confirmed(&fixture, insured_order("tok_visa")).await;
    assert_eq!(submit_claim_of(&fixture, &order).await, ClaimState::Accepted);
    let fulfilled = is_fulfilled(&fixture, &order).await;
    assert_eq!(fulfilled.settlement_hold(), SettlementHold::Unspecified);
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Accepted
    );
}

/// The submission is the first irreversible step: a refusal would cancel the order and withdraw the claim.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_a_share_whose_claim_was_submitted_by_hand_is_not_cancelled() {
    let fixture = Fixture::start().await;
    let mut request = insured_order("");
    request.lines = vec![line("SVC-CONS", 100)];
    request.patient_share = Some(aed(0));
    let claim = request.claim.as_mut().unwrap();
    (claim.gross, claim.patient_share) = (Some(aed(100)), Some(aed(0)));
    let order = confirmed(&fixture, request).await;
    submit_claim_of(&fixture, &order).await;
    is_fulfilled(&fixture, &order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_claim_was_submitted_and_rejected_is_fulfilled_for_review() {
    let fixture = Fixture::start().await;
    let mut request = insured_order("tok_visa");
    request.claim.as_mut().unwrap().payer_id = "SANDBOX-REJECT".to_owned();
    let order = confirmed(&fixture, request).await;
    assert_eq!(submit_claim_of(&fixture, &order).await, ClaimState::Rejected);
    let fulfilled = is_fulfilled(&fixture, &order).await;
    assert_eq!(fulfilled.settlement_hold(), SettlementHold::Review);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_claim_was_withdrawn_by_hand_becomes_stuck() {
    let fixture = Fixture::with(stuck_soon()).await;
    let order = confirmed(&fixture, insured_order("tok_visa")).await;
    let request = WithdrawClaimRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        reason: "billed elsewhere".to_owned(),
    };
    fixture.claims.clone().withdraw_claim(request).await.unwrap();
    begin_to_fulfil(&fixture, &order.id).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "submit_claim");
    assert!(saga.reason.contains("WITHDRAWN"), "{saga:?}");
    assert_eq!(fixture.money_of(&order.id).await.1, 20);
}

//! Claims are withdrawn when their order ends before its fulfilment.

use std::time::Duration;

use proto::{
    claims::v1::{
        ClaimState, GetClaimRequest, PrepareClaimRequest, claim_service_client::ClaimServiceClient,
    },
    order::v1::{CancelOrderRequest, order_service_client::OrderServiceClient},
};
use tests::{Service, Stack, eventually};
use uuid::Uuid;

use crate::samples;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_prepared_by_hand_is_withdrawn_with_its_order() {
    let stack = Stack::start().await;
    let token = stack.token("al-noor", &["admin"]);
    let mut orders = OrderServiceClient::new(stack.connect(Service::Order, &token));
    let claims = ClaimServiceClient::new(stack.connect(Service::Claims, &token));
    let placed = orders
        .place_order(samples::self_pay_order("tok_visa"))
        .await
        .unwrap();
    let order = placed.into_inner().order.unwrap();

    let prepare = PrepareClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: order.id.clone(),
        details: Some(samples::claim("CLM-BY-HAND")),
        validate_only: false,
    };
    let claim = claims
        .clone()
        .prepare_claim(prepare)
        .await
        .unwrap()
        .into_inner()
        .claim
        .unwrap();
    assert_eq!(claim.state(), ClaimState::Validated);

    let cancel = CancelOrderRequest {
        request_id: Uuid::new_v4().to_string(),
        id: order.id,
        reason: "changed my mind".to_owned(),
    };
    orders.cancel_order(cancel).await.unwrap();
    let by_id = GetClaimRequest {
        id: claim.id,
        ..GetClaimRequest::default()
    };
    eventually(Duration::from_secs(15), || async {
        let claim = claims
            .clone()
            .get_claim(by_id.clone())
            .await
            .unwrap()
            .into_inner()
            .claim
            .unwrap();
        claim.state() == ClaimState::Withdrawn
    })
    .await;
}

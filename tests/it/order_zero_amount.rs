//! Orders of zero amount.

use proto::{
    claims::v1::ClaimState,
    order::v1::{CaptureMode, OrderState, PlaceOrderRequest},
};

use crate::{
    claims_fixture::violations,
    order_fixture::{Fixture, fresh},
    samples::{aed, insured_order, line, self_pay_order},
};

fn free(capture_mode: CaptureMode) -> PlaceOrderRequest {
    PlaceOrderRequest {
        lines: vec![line("SVC-FREE", 0)],
        capture_mode: capture_mode.into(),
        ..self_pay_order("")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_zero_amount_is_confirmed_fulfilled_and_settled_without_a_payment() {
    let fixture = Fixture::start().await;
    let at_once = fixture.place(free(CaptureMode::Immediate)).await.unwrap();
    assert_eq!(at_once.state(), OrderState::Settled);
    assert_eq!(at_once.gross, Some(aed(0)));

    let confirmed = fixture.place(free(CaptureMode::OnFulfilment)).await.unwrap();
    assert_eq!(confirmed.state(), OrderState::Confirmed);
    assert_eq!(
        fixture.fulfil(&confirmed.id).await.unwrap().state(),
        OrderState::Settled
    );
    let given_up = fixture.place(free(CaptureMode::OnFulfilment)).await.unwrap();
    assert_eq!(
        fixture.cancel(&given_up.id).await.unwrap().state(),
        OrderState::Cancelled
    );
    for order in [&at_once, &confirmed, &given_up] {
        assert_eq!(fixture.payments_of(&order.id).await, []);
        assert!(fixture.balance_of(&order.id).await.is_empty());
    }
    let open = "select count(*) from orders.saga where state not in ('completed', 'compensated')";
    assert_eq!(fixture.rows(open).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_of_an_insured_order_of_zero_amount_is_filed() {
    let fixture = Fixture::start().await;
    let mut request = insured_order("");
    request.lines = vec![line("SVC-CONS", 0)];
    request.patient_share = Some(aed(0));
    let claim = request.claim.as_mut().unwrap();
    (claim.gross, claim.patient_share, claim.net) = (Some(aed(0)), Some(aed(0)), Some(aed(0)));
    claim.activities[0].net = Some(aed(0));
    let order = fixture.place(request).await.unwrap();
    assert_eq!(order.state(), OrderState::Settled, "{order:?}");
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Accepted
    );
    assert_eq!(fixture.payments_of(&order.id).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copay_above_the_price_is_refused_as_the_share() {
    let fixture = Fixture::start().await;
    let mut request = insured_order("tok_visa");
    request.lines = vec![line("SVC-CONS", 77)];
    request.patient_share = Some(aed(80));
    let claim = request.claim.as_mut().unwrap();
    (claim.gross, claim.patient_share, claim.net) = (Some(aed(77)), Some(aed(80)), Some(aed(0)));
    request.request_id = fresh();
    let refused = fixture.place(request).await.unwrap_err();
    let fields: Vec<String> = violations(&refused).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["patient_share"], "{refused}");
}

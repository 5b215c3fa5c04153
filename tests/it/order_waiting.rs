//! Orders that wait for payment, watches of them, and their expiry.

use proto::{
    claims::v1::ClaimState,
    order::v1::{CaptureMode, OrderState, WatchOrderRequest},
    payment::v1::{PayOrderRequest, PaymentState},
};
use tests::{Options, Service};
use tonic::Code;

use crate::{
    order_fixture::{Fixture, fresh},
    samples::{insured_order, self_pay_order},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_a_payment_method_waits_for_one() {
    let fixture = Fixture::start().await;
    let mut request = self_pay_order("");
    request.capture_mode = CaptureMode::Immediate.into();
    let order = fixture.place(request).await.unwrap();
    assert_eq!(order.state(), OrderState::AwaitingPayment);
    assert!(order.expire_time.is_some());

    let mut watch = fixture
        .orders
        .clone()
        .watch_order(WatchOrderRequest { id: order.id.clone() })
        .await
        .unwrap()
        .into_inner();
    let (request_id, order_id) = (fresh(), order.id.clone());
    let payment_method = "tok_visa".to_owned();
    fixture
        .payments
        .clone()
        .pay_order(PayOrderRequest {
            request_id,
            order_id,
            payment_method,
        })
        .await
        .unwrap();

    let mut states = Vec::new();
    while let Some(update) = watch.message().await.unwrap() {
        states.push(update.order.unwrap().state());
    }
    assert_eq!(states.first(), Some(&OrderState::AwaitingPayment));
    assert_eq!(states.last(), Some(&OrderState::Settled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_ok_only_when_its_order_has_ended() {
    let fixture = Fixture::start().await;
    let waiting = fixture.place(self_pay_order("")).await.unwrap();
    let mut request = tonic::Request::new(WatchOrderRequest { id: waiting.id });
    request.set_timeout(std::time::Duration::from_millis(1_500));
    let mut watch = fixture
        .orders
        .clone()
        .watch_order(request)
        .await
        .unwrap()
        .into_inner();
    let end = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::DeadlineExceeded);

    let mut request = self_pay_order("tok_visa");
    request.capture_mode = CaptureMode::Immediate.into();
    let settled = fixture.place(request).await.unwrap();
    let watched = fixture
        .orders
        .clone()
        .watch_order(WatchOrderRequest { id: settled.id })
        .await;
    let mut watch = watched.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    assert!(watch.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_not_paid_in_time_expires_and_leaves_nothing() {
    let fixture = Fixture::with(Options::default().set(Service::Order, "orders.payment_window_s", "1")).await;
    let order = fixture.place(insured_order("")).await.unwrap();
    assert_eq!(order.state(), OrderState::AwaitingPayment);
    let expired = fixture.becomes(&order.id, OrderState::Expired).await;
    assert_eq!(expired.failure.unwrap().reason, "PAYMENT_WINDOW_PASSED");
    assert_eq!(
        fixture.payments_of(&order.id).await[0].state(),
        PaymentState::Voided
    );
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Withdrawn
    );
    let (request_id, order_id) = (fresh(), order.id.clone());
    let payment_method = "tok_visa".to_owned();
    let late = fixture
        .payments
        .clone()
        .pay_order(PayOrderRequest {
            request_id,
            order_id,
            payment_method,
        })
        .await;
    assert_eq!(late.unwrap_err().code(), Code::FailedPrecondition);
}

//! The same request sent more than once, concurrently, and across a crash.

use std::time::Duration;

use proto::order::v1::{OrderState, PlaceOrderRequest};
use tests::{Options, Service, eventually};
use tonic::Code;

use crate::{
    order_fixture::{Fixture, SOON, reason},
    samples::{insured_order, self_pay_order},
};

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_identical_calls_make_one_order_and_give_equal_answers() {
    let fixture = Fixture::start().await;
    let request = insured_order("tok_visa");
    let calls = (0..32).map(|_| fixture.place(request.clone()));
    let orders: Vec<_> = futures_util::future::join_all(calls)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(orders.iter().all(|order| *order == orders[0]));
    assert_eq!(orders[0].state(), OrderState::Fulfilled);
    assert_eq!(fixture.rows("select count(*) from orders.placed_order").await, 1);
    assert_eq!(fixture.rows("select count(*) from orders.saga").await, 1);
    assert_eq!(fixture.money_of(&orders[0].id).await, (20, 20, 0));
    assert_eq!(fixture.claims_of(&orders[0].id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_marked_and_another_under_its_id_is_refused() {
    let fixture = Fixture::start().await;
    let request = PlaceOrderRequest {
        reference: "INV-1".into(),
        ..self_pay_order("tok_visa")
    };
    let first = fixture.orders.clone().place_order(request.clone()).await.unwrap();
    assert!(first.metadata().get("idempotency-replayed").is_none());
    let again = fixture.orders.clone().place_order(request.clone()).await.unwrap();
    assert!(again.metadata().get("idempotency-replayed").is_some());
    assert_eq!(first.into_inner(), again.into_inner());

    let other = PlaceOrderRequest {
        patient_id: "PT-9".into(),
        ..request.clone()
    };
    let refused = fixture.place(other).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED")
    );

    let taken = PlaceOrderRequest {
        request_id: crate::order_fixture::fresh(),
        ..request
    };
    let refused = fixture.place(taken).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::AlreadyExists, "REFERENCE_TAKEN")
    );
    assert_eq!(fixture.rows("select count(*) from orders.placed_order").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_whose_process_was_killed_between_steps_is_resumed() {
    let options = Options::default()
        .set(Service::Payment, "sandbox.slow_ms", "3000")
        .set(Service::Payment, "processor.timeout_ms", "30000");
    let fixture = Fixture::with(options).await;
    let request = PlaceOrderRequest {
        payment_method: "tok_slow".into(),
        ..insured_order("")
    };
    let (orders, sent) = (fixture.orders.clone(), request.clone());
    let call = tokio::spawn(async move { orders.clone().place_order(sent).await });
    // Between the claim and the money.
    let claims = fixture.stack.database(Service::Claims);
    let prepared = async || claims.count("select count(*) from claims.claim").await == 1;
    eventually(SOON, prepared).await;
    fixture.stack.kill9(Service::Order);
    assert!(call.await.unwrap().is_err());
    fixture.stack.restart(Service::Order).await;

    let mut again = tonic::Request::new(request);
    again.set_timeout(Duration::from_secs(15));
    let answered = fixture.orders.clone().place_order(again).await.unwrap();
    assert!(answered.metadata().get("idempotency-replayed").is_some());
    let order = answered.into_inner().order.unwrap();
    assert_eq!(order.state(), OrderState::Fulfilled);
    assert_eq!(fixture.rows("select count(*) from orders.placed_order").await, 1);
    assert_eq!(fixture.money_of(&order.id).await, (20, 20, 0));
    assert_eq!(fixture.claims_of(&order.id).await.len(), 1);
}

//! One request authorizes and captures: one answer, and the records of the processor and of the payment service
//! agree across all faults.

use std::time::Duration;

use proto::{
    ops::v1::{PauseConsumerRequest, event_service_client::EventServiceClient},
    order::v1::{CancelOrderRequest, CaptureMode, OrderState, PlaceOrderRequest},
    payment::v1::{ListPaymentsRequest, Payment, PaymentPurpose, PaymentState, RefundPaymentRequest},
};
use tests::{Options, Service, eventually};
use tonic::Code;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::{
    order_fixture,
    payment_fixture::{Fixture, SOON, Statement, charge},
    samples::self_pay_order,
    stuck_saga_fixture::begin_to_fulfil,
};

const SHARE: PaymentPurpose = PaymentPurpose::Share;

const CHARGED_ONCE: Statement = Statement {
    holds: 1,
    charges: 1,
    charged: 800,
    given_back: 0,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_is_one_request_with_both_events_and_one_ledger_transaction() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let request = charge(order, 800, "tok_visa");
    let payment = fixture.send(request.clone()).await.unwrap();
    assert_eq!((payment.state(), payment.version), (PaymentState::Captured, 4));
    assert_eq!(fixture.send(request).await.unwrap(), payment);
    assert_eq!(fixture.events(&payment).await, ["Authorized", "Captured"]);
    assert_eq!(fixture.statement(order).await, CHARGED_ONCE);
    let database = fixture.stack.database(Service::Payment);
    let ended = "select count(*) from payment.operation where state = 'SUCCEEDED' and reference <> ''";
    assert_eq!(database.count(ended).await, 2);
    assert_eq!(
        database
            .count("select count(*) from payment.ledger_transaction")
            .await,
        1
    );
    // Such a charge can be refunded.
    let refunded = fixture.refund(&payment, Some(300)).await.unwrap();
    assert_eq!(refunded.refunds.len(), 1);
    assert_eq!(fixture.statement(order).await.given_back, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_charge_is_a_declined_authorization() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let declined = fixture.send(charge(order, 800, "tok_decline")).await.unwrap();
    assert_eq!(declined.state(), PaymentState::Declined);
    assert_eq!(fixture.events(&declined).await, ["Declined"]);
    let paid = fixture.send(charge(order, 800, "tok_visa")).await.unwrap();
    assert_eq!(paid.state(), PaymentState::Captured);
    assert_eq!(fixture.statement(order).await, CHARGED_ONCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_cannot_be_captured_stays_authorized_and_can_be_voided() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let request = charge(order, 800, "tok_capture_fails");
    let held = fixture.send(request.clone()).await.unwrap();
    assert_eq!(held.state(), PaymentState::Authorized);
    assert_eq!(fixture.send(request).await.unwrap(), held);
    assert_eq!(fixture.events(&held).await, ["Authorized"]);
    let refused = fixture.capture(&held, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(fixture.void(order).await.unwrap().state(), PaymentState::Voided);
    assert_eq!(fixture.statement(order).await.charged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_without_an_answer_is_resolved_after_the_authorization_was_published() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let request = charge(order, 800, "tok_capture_timeout");
    assert_eq!(
        fixture.send(request.clone()).await.unwrap().state(),
        PaymentState::Authorized
    );
    let payment = fixture.becomes(order, SHARE, PaymentState::Captured).await;
    assert_eq!(fixture.send(request).await.unwrap(), payment);
    assert_eq!(fixture.events(&payment).await, ["Authorized", "Captured"]);
    assert_eq!(fixture.statement(order).await, CHARGED_ONCE);
}

/// The authorization of an operation that was not stored yet is queried, and its capture is sent with the same
/// key.
#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_capture_and_before_anything_is_written_it_is_charged_once_and_booked() {
    let options = Options::default().set(Service::Payment, "processor.timeout_ms", "4000");
    let fixture = Fixture::with(options).await;
    let order = Uuid::new_v4();
    let request = charge(order, 800, "tok_capture_timeout");
    let calling = tokio::spawn({
        let (mut payments, request) = (fixture.payments.clone(), request.clone());
        async move { payments.authorize_payment(request).await }
    });
    let database = fixture.stack.database(Service::Payment);
    let captured = "select count(*) from sandbox.card_operation where kind = 'CAPTURE'";
    eventually(SOON, || async { database.count(captured).await == 1 }).await;
    fixture.stack.kill9(Service::Payment);
    assert!(calling.await.unwrap().is_err());
    let ended = "select count(*) from payment.operation where state not in ('RUNNING', 'UNKNOWN')";
    assert_eq!(database.count(ended).await, 0);

    fixture.stack.restart(Service::Payment).await;
    let payment = fixture.becomes(order, SHARE, PaymentState::Captured).await;
    assert_eq!(fixture.statement(order).await, CHARGED_ONCE);
    assert_eq!(fixture.events(&payment).await, ["Authorized", "Captured"]);
    assert_eq!(
        database
            .count("select count(*) from payment.ledger_transaction")
            .await,
        1
    );
    assert_eq!(
        fixture.send(request).await.unwrap().state(),
        PaymentState::Captured
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_void_during_a_capture_is_refused_and_the_charge_is_booked() {
    let options = Options::default().set(Service::Payment, "processor.timeout_ms", "3000");
    let fixture = Fixture::with(options).await;
    let order = Uuid::new_v4();
    let calling = tokio::spawn({
        let mut payments = fixture.payments.clone();
        let request = charge(order, 800, "tok_capture_timeout");
        async move { payments.authorize_payment(request).await }
    });
    let database = fixture.stack.database(Service::Payment);
    let captured = "select count(*) from sandbox.card_operation where kind = 'CAPTURE'";
    eventually(SOON, || async { database.count(captured).await == 1 }).await;
    let refused = fixture.void(order).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    fixture.becomes(order, SHARE, PaymentState::Captured).await;
    let _ = calling.await.unwrap();
    assert_eq!(fixture.statement(order).await, CHARGED_ONCE);
    assert_eq!(
        database
            .count("select count(*) from payment.ledger_transaction")
            .await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_without_a_payment_method_is_refused_and_leaves_nothing() {
    let fixture = Fixture::start().await;
    let refused = fixture.send(charge(Uuid::new_v4(), 800, "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    assert_eq!(
        details.bad_request().unwrap().field_violations[0].field,
        "capture"
    );
    let database = fixture.stack.database(Service::Payment);
    assert_eq!(database.count("select count(*) from payment.payment").await, 0);
}

/// A system whose order service never learns the result of this method, neither by an answer nor by an event.
async fn without_answers_to(method: &str, options: Options) -> order_fixture::Fixture {
    let options = options
        .set(Service::Order, "saga.backoff_ms", "200")
        .set(Service::Order, "saga.stuck_retry_s", "1")
        .set(Service::Payment, "processor.poll_ms", "20");
    let fixture = order_fixture::Fixture::with(options).await;
    // No answer to the call is ever stored, for a transient reason.
    let unanswered = format!(
        "create function public.unanswered() returns trigger language plpgsql as $$ begin
             raise exception 'not now' using errcode = 'lock_not_available';
         end $$;
         create trigger unanswered before update on chassis.idempotency for each row
             when (new.answer is not null and new.method like '%{method}')
             execute function public.unanswered()"
    );
    change_payments(&fixture, &unanswered).await;
    let token = fixture.stack.token("al-noor", &["admin"]);
    let pause = PauseConsumerRequest {
        consumer: "order-payments".to_owned(),
        request_id: order_fixture::fresh(),
        reason: "it must not consume the charge".to_owned(),
    };
    let mut events = EventServiceClient::new(fixture.stack.connect(Service::Order, &token));
    events.pause_consumer(pause).await.unwrap();
    fixture
}

async fn change_payments(fixture: &order_fixture::Fixture, sql: &str) {
    let owner = fixture.stack.database(Service::Payment).owner().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(&owner)
        .await
        .unwrap();
}

/// An order over 30 dirhams, captured at once.
fn charged_at_once(payment_method: &str) -> PlaceOrderRequest {
    PlaceOrderRequest {
        capture_mode: CaptureMode::Immediate.into(),
        ..self_pay_order(payment_method)
    }
}

/// Places an order that is captured at once, without waiting for its end.
async fn begin_to_place(fixture: &order_fixture::Fixture) -> String {
    let mut request = tonic::Request::new(charged_at_once("tok_visa"));
    request.set_timeout(Duration::from_secs(2));
    let placed = fixture.orders.clone().place_order(request).await.unwrap();
    placed.into_inner().order.unwrap().id
}

/// Waits until the only payment is captured.
async fn charged(fixture: &order_fixture::Fixture) -> Payment {
    eventually(SOON, || async {
        let listed = fixture
            .payments
            .clone()
            .list_payments(ListPaymentsRequest::default())
            .await
            .unwrap();
        let payments = listed.into_inner().payments;
        let charged = payments
            .iter()
            .find(|payment| payment.state() == PaymentState::Captured);
        charged.cloned().ok_or_else(|| format!("{payments:?}"))
    })
    .await
}

/// Refunds all of it, outside the order's saga.
async fn refund_by_hand(fixture: &order_fixture::Fixture, payment: &Payment) {
    let request = RefundPaymentRequest {
        request_id: order_fixture::fresh(),
        id: payment.id.clone(),
        amount: None,
        reason: "charged by mistake".to_owned(),
    };
    fixture.payments.clone().refund_payment(request).await.unwrap();
}

/// When the saga times out, the money is refunded automatically.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_saga_times_out_after_a_charge_without_an_answer_refunds_it() {
    let fixture = without_answers_to(
        "AuthorizePayment",
        Options::default().set(Service::Order, "saga.step_tries", "4"),
    )
    .await;
    let order = begin_to_place(&fixture).await;
    let order = fixture.becomes(&order, OrderState::Rejected).await;
    assert_eq!(fixture.money_of(&order.id).await, (30, 30, 30));
    assert_eq!(
        order_fixture::step_names(&fixture.saga(&order.saga_id).await),
        ["authorize_payment", "undo authorize_payment"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_cancelled_after_a_charge_without_an_answer_refunds_it() {
    let fixture = without_answers_to("AuthorizePayment", Options::default()).await;
    let order = begin_to_place(&fixture).await;
    charged(&fixture).await;
    let mut request = tonic::Request::new(CancelOrderRequest {
        request_id: order_fixture::fresh(),
        id: order.clone(),
        reason: "the patient went home".to_owned(),
    });
    request.set_timeout(Duration::from_secs(5));
    let _ = fixture.orders.clone().cancel_order(request).await;
    fixture.becomes(&order, OrderState::Cancelled).await;
    assert_eq!(fixture.money_of(&order).await, (30, 30, 30));
}

/// The stored answer says that the payment was captured, and not that it was refunded since.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_unanswered_charge_was_refunded_by_hand_is_rejected() {
    let options = Options::default()
        .set(Service::Payment, "sandbox.slow_ms", "3000")
        .set(Service::Payment, "processor.timeout_ms", "30000");
    let fixture = order_fixture::Fixture::with(options).await;
    let placing = tokio::spawn({
        let mut orders = fixture.orders.clone();
        async move { orders.place_order(charged_at_once("tok_slow")).await }
    });
    let database = fixture.stack.database(Service::Payment);
    let begun = "select count(*) from payment.operation";
    eventually(SOON, || async { database.count(begun).await == 1 }).await;
    fixture.stack.kill9(Service::Order);
    assert!(placing.await.unwrap().is_err());
    let payment = charged(&fixture).await;
    refund_by_hand(&fixture, &payment).await;

    fixture.stack.restart(Service::Order).await;
    let order = fixture.becomes(&payment.order_id, OrderState::Rejected).await;
    assert_eq!(order.failure.unwrap().reason, "PAYMENT_REFUNDED");
    assert_eq!(fixture.money_of(&order.id).await, (30, 30, 30));
    assert!(fixture.balance_of(&order.id).await.is_empty());
    assert_eq!(
        order_fixture::step_names(&fixture.saga(&order.saga_id).await),
        ["authorize_payment"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_unanswered_capture_was_refunded_by_hand_is_cancelled() {
    let fixture = without_answers_to("CapturePayment", Options::default()).await;
    let order = fixture.place(self_pay_order("tok_visa")).await.unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    begin_to_fulfil(&fixture, &order.id).await;
    refund_by_hand(&fixture, &charged(&fixture).await).await;
    change_payments(&fixture, "drop trigger unanswered on chassis.idempotency").await;

    let order = fixture.becomes(&order.id, OrderState::Cancelled).await;
    assert_eq!(order.failure.unwrap().reason, "PAYMENT_REFUNDED");
    assert_eq!(fixture.money_of(&order.id).await, (30, 30, 30));
    assert!(fixture.balance_of(&order.id).await.is_empty());
}

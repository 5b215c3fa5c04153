//! Changes made by hand at the payment or claims service are found by the saga that would have made them. Every
//! procedure of docs/runbooks/stuck-sagas.md is tested here, at the service's own pace.

use proto::{
    claims::v1::{ClaimState, SubmitClaimRequest},
    ops::v1::SagaState,
    order::v1::{CancelOrderRequest, CaptureMode, FulfilOrderRequest, Order, OrderState},
    payment::v1::{CapturePaymentRequest, PaymentPurpose, RefundPaymentRequest, VoidPaymentRequest},
};
use tests::{Options, Service, eventually};
use tonic::Code;

use crate::{
    order_fixture::{Fixture, SOON, fresh, reason},
    samples::{aed, insured_order, self_pay_order},
    stuck_saga_fixture::{becomes_stuck, begin_to_fulfil, retried, stuck_soon},
};

async fn capture_by_hand(fixture: &Fixture, order: &Order, units: Option<i64>) {
    let request = CapturePaymentRequest {
        request_id: fresh(),
        id: order.payment_id.clone(),
        amount: units.map(aed),
    };
    fixture.payments.clone().capture_payment(request).await.unwrap();
}

async fn refund_by_hand(fixture: &Fixture, order: &Order) {
    let request = RefundPaymentRequest {
        request_id: fresh(),
        id: order.payment_id.clone(),
        amount: None,
        reason: "captured by mistake".to_owned(),
    };
    fixture.payments.clone().refund_payment(request).await.unwrap();
}

async fn confirmed(fixture: &Fixture) -> Order {
    let order = fixture.place(self_pay_order("tok_visa")).await.unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    order
}

/// Sagas become stuck after a second, and are then resumed only by an operator.
fn stuck_after_a_second() -> Options {
    stuck_soon().set(Service::Order, "saga.patience_s", "1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_saga_continues_when_the_claim_was_submitted_by_hand() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let mut request = insured_order("tok_visa");
    request.capture_mode = CaptureMode::OnFulfilment.into();
    let order = fixture.place(request).await.unwrap();
    fixture.stack.stop(Service::Claims).await;
    begin_to_fulfil(&fixture, &order.id).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "submit_claim");

    fixture.stack.restart(Service::Claims).await;
    let submit = SubmitClaimRequest {
        request_id: fresh(),
        id: order.claim_id.clone(),
    };
    let answer = fixture.claims.clone().submit_claim(submit).await.unwrap();
    assert_eq!(answer.into_inner().claim.unwrap().state(), ClaimState::Accepted);
    retried(&fixture, &saga, (&order.id, OrderState::Fulfilled)).await;
    assert_eq!(fixture.saga(&saga.id).await.state(), SagaState::Completed);
    assert_eq!(fixture.claims_of(&order.id).await[0].cycle, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_was_captured_by_hand_is_not_captured_again_and_the_order_is_fulfilled() {
    let fixture = Fixture::start().await;
    let order = confirmed(&fixture).await;
    capture_by_hand(&fixture, &order, None).await;
    let fulfilled = fixture.fulfil(&order.id).await.unwrap();
    assert_eq!(fulfilled.state(), OrderState::Settled, "{fulfilled:?}");
    assert_eq!(fixture.money_of(&order.id).await, (30, 30, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_manual_capture_leaves_the_saga_stuck_and_the_order_is_cancelled_once_it_is_refunded() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let order = confirmed(&fixture).await;
    capture_by_hand(&fixture, &order, Some(10)).await;
    begin_to_fulfil(&fixture, &order.id).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "capture_payment");
    assert!(
        saga.reason.contains("only 10.00 was captured by hand"),
        "{saga:?}"
    );
    assert_eq!(
        fixture.get(&order.id).await.unwrap().state(),
        OrderState::Confirmed
    );

    refund_by_hand(&fixture, &order).await;
    let cancelled = retried(&fixture, &saga, (&order.id, OrderState::Cancelled)).await;
    assert_eq!(cancelled.failure.unwrap().reason, "PAYMENT_REFUNDED");
    assert_eq!(fixture.money_of(&order.id).await, (30, 10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_waits_for_captured_money_to_be_given_back_by_hand() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let order = confirmed(&fixture).await;
    capture_by_hand(&fixture, &order, None).await;
    let mut request = tonic::Request::new(CancelOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        reason: "the patient went home".to_owned(),
    });
    request.set_timeout(std::time::Duration::from_secs(2));
    fixture.orders.clone().cancel_order(request).await.unwrap();
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "void_payment");
    assert!(saga.reason.contains("30.00 of it is kept"), "{saga:?}");

    refund_by_hand(&fixture, &order).await;
    retried(&fixture, &saga, (&order.id, OrderState::Cancelled)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_was_voided_by_hand_cancels_the_order() {
    let options = stuck_after_a_second().set(Service::Payment, "processor.ask_again_ms", "60000");
    let fixture = Fixture::with(options).await;
    let order = confirmed(&fixture).await;
    fixture.stack.stop(Service::Payment).await;
    begin_to_fulfil(&fixture, &order.id).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "capture_payment");

    fixture.stack.restart(Service::Payment).await;
    let void = VoidPaymentRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        purpose: PaymentPurpose::Share.into(),
        reason: "not wanted any more".to_owned(),
    };
    fixture.payments.clone().void_payment(void).await.unwrap();
    let cancelled = retried(&fixture, &saga, (&order.id, OrderState::Cancelled)).await;
    assert_eq!(cancelled.failure.unwrap().reason, "PAYMENT_VOIDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_or_fulfilling_an_order_with_a_stuck_saga_is_refused_with_the_reason() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let order = confirmed(&fixture).await;
    fixture.stack.stop(Service::Payment).await;
    begin_to_fulfil(&fixture, &order.id).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    let fulfil = FulfilOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
    };
    for refused in [
        fixture.cancel(&order.id).await.unwrap_err(),
        fixture.orders.clone().fulfil_order(fulfil).await.unwrap_err(),
    ] {
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::FailedPrecondition, "SAGA_STUCK")
        );
        assert!(
            refused.message().contains(&saga.id) && refused.message().contains("capture_payment"),
            "{refused}"
        );
    }
}

/// The event that would wake a saga arrives while a process drives it: the saga continues instead of waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_wake_up_while_a_saga_is_driven_is_not_lost() {
    let fixture =
        Fixture::with(Options::default().set(Service::Order, "orders.payment_window_s", "3600")).await;
    let order = fixture.place(self_pay_order("")).await.unwrap();
    assert_eq!(order.state(), OrderState::AwaitingPayment);
    let saga_id = order.saga_id.parse().unwrap();

    // Another process has claimed the saga and reads the payment.
    let database = fixture.stack.database(Service::Order);
    sqlx::query(
        "update orders.saga set lease_owner = gen_random_uuid(), lease_until = now() + interval '1 hour',
             lease_epoch = lease_epoch + 1, wake_at = null where id = $1",
    )
    .bind(saga_id)
    .execute(&database.superuser().await)
    .await
    .unwrap();
    let mut tx = database.app().await.begin().await.unwrap();
    sqlx::query("select set_config('weft.facility', $1, true)")
        .bind(crate::order_fixture::FACILITY)
        .execute(&mut *tx)
        .await
        .unwrap();
    let mut driven = order::store::sagas::get(&mut tx, saga_id).await.unwrap().unwrap();

    let pay = proto::payment::v1::PayOrderRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        payment_method: "tok_visa".to_owned(),
    };
    fixture.payments.clone().pay_order(pay).await.unwrap();
    eventually(SOON, || async {
        let consumed = "select count(*) from events.inbox where consumer = 'order-payments'";
        fixture.rows(consumed).await > 0
    })
    .await;

    // It had read the payment before the patient paid.
    driven.wait(time::OffsetDateTime::now_utc() + time::Duration::hours(1), false);
    let moved = order::store::sagas::SagaUpdate::released(&driven, driven.epoch);
    let saved = order::store::sagas::save(&mut tx, &[moved]).await.unwrap();
    assert_eq!(saved, [driven.id]);
    tx.commit().await.unwrap();
    fixture.becomes(&order.id, OrderState::Confirmed).await;
}

/// Time spent waiting for the patient does not count as time of the saga.
#[tokio::test(flavor = "multi_thread")]
async fn time_spent_waiting_for_the_patient_does_not_count_towards_the_sagas_deadline() {
    let options = Options::default()
        .set(Service::Order, "saga.patience_s", "1")
        .set(Service::Order, "orders.payment_window_s", "3600");
    let fixture = Fixture::with(options).await;
    let order = fixture.place(self_pay_order("")).await.unwrap();
    let overdue = format!(
        "select count(*) from orders.saga where id = '{}' and deadline_at < now() + interval '59 minutes'",
        order.saga_id
    );
    assert_eq!(fixture.rows(&overdue).await, 0);
}

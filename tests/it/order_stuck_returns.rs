//! Sagas that are stuck while undoing something: refunds, the payment of a balance, the withdrawal of a claim.

use std::time::Duration;

use proto::{
    claims::v1::ClaimState,
    ops::v1::{Saga, SagaState, SagaStepState},
    order::v1::{
        CancelOrderRequest, CaptureMode, Order, OrderRefundState, OrderState, PlaceOrderRequest,
        RefundOrderRequest,
    },
    payment::v1::{PayOrderRequest, PaymentPurpose, PaymentState, RefundPaymentRequest},
};
use tests::{Options, Service, eventually};

use crate::{
    claims_fixture::{advice, file, import},
    order_fixture::{Fixture, SOON, fresh, reason},
    samples::{aed, insured_order, self_pay_order},
    stuck_saga_fixture::{becomes_stuck, force, forcing, retried, skip, skipping, stuck_soon},
};

/// Sagas time out after a second, so that an unavailable service makes them stuck.
fn stuck_after_a_second() -> Options {
    stuck_soon().set(Service::Order, "saga.patience_s", "1")
}

async fn paid_at_once(fixture: &Fixture, request: PlaceOrderRequest) -> Order {
    let request = PlaceOrderRequest {
        capture_mode: CaptureMode::Immediate.into(),
        ..request
    };
    fixture.place(request).await.unwrap()
}

/// An order whose payer denies all of its 100 dirhams: the patient owes them.
async fn denied(fixture: &Fixture) -> Order {
    let request = insured_order("tok_visa");
    let claim_id = request.claim.as_ref().unwrap().claim_id.clone();
    let order = fixture.place(request).await.unwrap();
    remit(fixture, &claim_id, "0.00", "COPY-001").await;
    fixture.becomes(&order.id, OrderState::BalanceDue).await
}

/// The payer remits another payment for the 100 dirhams that it was billed.
async fn remit(fixture: &Fixture, claim_id: &str, payment: &str, denial_code: &str) {
    let document = file(&[advice(claim_id, &[("A1", "100.00", payment, denial_code)])]);
    import(&fixture.claims, &fresh(), &document).await.unwrap();
}

/// Pays the patient's balance.
async fn paid(fixture: &Fixture, order: &Order, payment_method: &str) -> Order {
    let paying = PayOrderRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        payment_method: payment_method.to_owned(),
    };
    // The payment service learns by an event what the patient owes.
    eventually(SOON, || async {
        let paid = fixture.payments.clone().pay_order(paying.clone()).await;
        paid.map_err(|status| status.to_string())
    })
    .await;
    fixture.becomes(&order.id, OrderState::Settled).await
}

/// Starts a refund of this many dirhams, or of everything, without waiting for its end.
async fn begin_to_refund(fixture: &Fixture, order: &Order, amount: Option<i64>) {
    let mut request = tonic::Request::new(RefundOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        amount: amount.map(aed),
        reason: "returned".to_owned(),
        ..RefundOrderRequest::default()
    });
    request.set_timeout(Duration::from_secs(2));
    // With or without a timeout, the refund is stored, and its saga continues.
    let _ = fixture.orders.clone().refund_order(request).await;
}

/// A stuck refund of ten of a walk-in patient's thirty dirhams: the payment service is unavailable for a while.
async fn stuck_refund(fixture: &Fixture) -> (Order, Saga) {
    let order = paid_at_once(fixture, self_pay_order("tok_visa")).await;
    assert_eq!(order.state(), OrderState::Settled);
    fixture.stack.stop(Service::Payment).await;
    begin_to_refund(fixture, &order, Some(10)).await;
    let saga = becomes_stuck(fixture, &order.id).await;
    assert_eq!(saga.current_step, "refund_payment");
    fixture.stack.restart(Service::Payment).await;
    (order, saga)
}

/// Skips the step as soon as the payment service can confirm its records.
async fn skip_now(fixture: &Fixture, saga: &Saga) -> Saga {
    let request = skipping(saga);
    eventually(SOON, || async {
        let skipped = skip(fixture, request.clone()).await;
        skipped.map_err(|status| status.to_string())
    })
    .await
}

/// The reasons why it can neither be skipped nor force-completed, once the payment service is available.
async fn refusals(fixture: &Fixture, saga: &Saga) -> [String; 2] {
    eventually(SOON, || async {
        let skipped = skip(fixture, skipping(saga)).await.unwrap_err();
        let forced = force(fixture, forcing(saga)).await.unwrap_err();
        let away = [&skipped, &forced]
            .iter()
            .any(|status| status.code() == tonic::Code::Unavailable);
        if away {
            Err(format!("{skipped} {forced}"))
        } else {
            Ok([reason(&skipped), reason(&forced)])
        }
    })
    .await
}

fn state_of(saga: &Saga, step: &str) -> SagaStepState {
    let found = saga.steps.iter().find(|recorded| recorded.name == step);
    found
        .unwrap_or_else(|| panic!("{step} is not in {saga:?}"))
        .state()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_whose_step_is_skipped_fails_and_reports_the_amount_not_refunded() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let (order, saga) = stuck_refund(&fixture).await;
    let skipped = skip_now(&fixture, &saga).await;
    assert_eq!(skipped.state(), SagaState::Completed);
    assert_eq!(state_of(&skipped, "refund_payment"), SagaStepState::Skipped);
    let left = fixture.get(&order.id).await.unwrap();
    assert_eq!(left.state(), OrderState::Settled);
    assert_eq!(left.refunds[0].state(), OrderRefundState::Failed);
    assert_eq!(left.remarks[0].reason, "NOT_GIVEN_BACK");
    assert!(left.remarks[0].message.contains("10.00"), "{left:?}");
    assert_eq!(fixture.money_of(&order.id).await, (30, 30, 0));

    // The amount that was not refunded can be refunded later.
    begin_to_refund(&fixture, &left, None).await;
    let returned = fixture.becomes(&order.id, OrderState::Returned).await;
    assert_eq!(returned.refunded, Some(aed(30)));
    assert_eq!(fixture.money_of(&order.id).await, (30, 30, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_was_made_by_hand_is_forced_and_not_skipped() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let (order, saga) = stuck_refund(&fixture).await;
    let refused_reason = eventually(SOON, || async {
        let refused = force(&fixture, forcing(&saga)).await.unwrap_err();
        match refused.code() {
            tonic::Code::Unavailable => Err(refused.to_string()),
            _ => Ok(reason(&refused)),
        }
    })
    .await;
    assert_eq!(refused_reason, "NOT_GIVEN_BACK");
    let by_hand = RefundPaymentRequest {
        request_id: fresh(),
        id: fixture.payments_of(&order.id).await[0].id.clone(),
        amount: Some(aed(10)),
        reason: "by telephone".to_owned(),
    };
    fixture.payments.clone().refund_payment(by_hand).await.unwrap();
    let skipped = skip(&fixture, skipping(&saga)).await.unwrap_err();
    assert_eq!(reason(&skipped), "GIVEN_BACK");
    let forced = force(&fixture, forcing(&saga)).await.unwrap();
    assert_eq!(forced.state(), SagaState::Completed);
    let refunded = fixture.get(&order.id).await.unwrap();
    assert_eq!(refunded.refunds[0].state(), OrderRefundState::Done);
    assert_eq!(refunded.refunded, Some(aed(10)));
    assert_eq!(refunded.remarks[0].reason, "DONE_BY_HAND");
    assert_eq!(fixture.money_of(&order.id).await, (30, 30, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_in_progress_is_neither_skipped_nor_forced() {
    let options = stuck_after_a_second().set(Service::Payment, "processor.ask_again_ms", "60000");
    let fixture = Fixture::with(options).await;
    let order = denied(&fixture).await;
    let settled = paid(&fixture, &order, "tok_refund_timeout").await;
    begin_to_refund(&fixture, &settled, Some(120)).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "refund_balance");
    let shown = fixture.saga(&saga.id).await;
    assert_eq!(state_of(&shown, "refund_payment"), SagaStepState::Succeeded);
    assert_eq!(
        refusals(&fixture, &saga).await,
        ["REFUND_PENDING", "REFUND_PENDING"]
    );
    assert_eq!(fixture.get(&order.id).await.unwrap().remarks, []);
    assert_eq!(fixture.rows("select count(*) from orders.saga_action").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_whose_balance_cannot_be_voided_ends_when_the_step_is_skipped() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let order = denied(&fixture).await;
    fixture.stack.stop(Service::Payment).await;
    begin_to_refund(&fixture, &order, None).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "void_balance");
    fixture.stack.restart(Service::Payment).await;
    skip_now(&fixture, &saga).await;

    let returned = fixture.becomes(&order.id, OrderState::Returned).await;
    assert_eq!(returned.remarks[0].reason, "BALANCE_NOT_RELEASED");
    assert_eq!(returned.refunded, Some(aed(20)));
    let ended = fixture.saga(&saga.id).await;
    let states = ["withdraw_claim", "void_balance", "refund_payment"].map(|step| state_of(&ended, step));
    assert_eq!(
        states,
        [
            SagaStepState::Succeeded,
            SagaStepState::Skipped,
            SagaStepState::Succeeded
        ]
    );
    let payments = fixture.payments_of(&order.id).await;
    let balance = payments
        .iter()
        .find(|payment| payment.purpose() == PaymentPurpose::Balance);
    assert_eq!(balance.unwrap().state(), PaymentState::Created);
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Withdrawn
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_ends_without_the_claims_service_which_withdraws_the_draft_later() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let mut request = insured_order("tok_visa");
    request.capture_mode = CaptureMode::OnFulfilment.into();
    let order = fixture.place(request).await.unwrap();
    fixture.stack.stop(Service::Claims).await;
    let mut request = tonic::Request::new(CancelOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        reason: "the patient went home".to_owned(),
    });
    request.set_timeout(Duration::from_secs(2));
    fixture.orders.clone().cancel_order(request).await.unwrap();
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "withdraw_claim");
    skip_now(&fixture, &saga).await;
    let cancelled = fixture.becomes(&order.id, OrderState::Cancelled).await;
    assert_eq!(cancelled.remarks[0].reason, "CLAIM_NOT_WITHDRAWN");
    assert_eq!(
        fixture.payments_of(&order.id).await[0].state(),
        PaymentState::Voided
    );
    fixture.stack.restart(Service::Claims).await;
    eventually(SOON, || async {
        fixture.claims_of(&order.id).await[0].state() == ClaimState::Withdrawn
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_waits_for_the_withdrawal_of_its_claim() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let order = paid_at_once(&fixture, insured_order("tok_visa")).await;
    fixture.stack.stop(Service::Claims).await;
    begin_to_refund(&fixture, &order, None).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "withdraw_claim");
    assert_eq!(refusals(&fixture, &saga).await, ["STEP_NEEDED", "NOT_GIVEN_BACK"]);
    fixture.stack.restart(Service::Claims).await;
    let returned = retried(&fixture, &saga, (&order.id, OrderState::Returned)).await;
    assert_eq!(returned.refunded, Some(aed(20)));
    assert_eq!(returned.remarks, []);
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Withdrawn
    );
}

/// The payer has paid what the patient had paid already, and takes it back while the patient's refund is in
/// progress.
#[tokio::test(flavor = "multi_thread")]
async fn a_credit_that_the_payer_takes_back_during_its_refund_is_owed_again() {
    let fixture = Fixture::with(stuck_after_a_second()).await;
    let order = denied(&fixture).await;
    paid(&fixture, &order, "tok_visa").await;
    let claim = fixture.claims_of(&order.id).await.remove(0);
    let claim_id = claim.details.unwrap().claim_id;
    remit(&fixture, &claim_id, "100.00", "").await;
    has_credit(&fixture, &order, 100).await;
    fixture.stack.stop(Service::Payment).await;
    begin_to_refund(&fixture, &order, Some(100)).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "refund_balance");
    remit(&fixture, &claim_id, "-100.00", "COPY-001").await;
    has_credit(&fixture, &order, 0).await;

    fixture.stack.restart(Service::Payment).await;
    let due = retried(&fixture, &saga, (&order.id, OrderState::BalanceDue)).await;
    assert_eq!(
        (due.patient_balance, due.refunded),
        (Some(aed(100)), Some(aed(100)))
    );
    let owed = [("patient_receivable", 100), ("cash", 20), ("revenue", -120)];
    let owed = owed.map(|(account, units)| (account.to_owned(), units));
    eventually(SOON, || async {
        let balance = fixture.balance_of(&order.id).await;
        if balance == owed {
            Ok(())
        } else {
            Err(format!("{balance:?}"))
        }
    })
    .await;
    let settled = paid(&fixture, &order, "tok_visa").await;
    assert_eq!(settled.patient_credit, Some(aed(0)));
}

async fn has_credit(fixture: &Fixture, order: &Order, units: i64) {
    eventually(SOON, || async {
        let order = fixture.get(&order.id).await.unwrap();
        if order.patient_credit == Some(aed(units)) {
            Ok(())
        } else {
            Err(format!("{order:?}"))
        }
    })
    .await;
}

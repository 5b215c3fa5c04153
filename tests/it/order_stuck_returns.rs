//! Stuck where something is taken back: refunds, the payment of a balance, the withdrawal of a claim.

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
    claims_rig::{advice, file, import},
    order_rig::{Rig, SOON, fresh, reason},
    samples::{aed, insured_order, self_pay_order},
    stuck_rig::{becomes_stuck, force, forcing, impatient, retried, skip, skipping},
};

/// Overdue after a second, so that a service that is away makes a saga stuck.
fn hurried() -> Options {
    impatient().set(Service::Order, "saga.patience_s", "1")
}

async fn paid_at_once(rig: &Rig, request: PlaceOrderRequest) -> Order {
    let request = PlaceOrderRequest {
        capture_mode: CaptureMode::Immediate.into(),
        ..request
    };
    rig.place(request).await.unwrap()
}

/// An order whose payer pays none of its 100 dirhams: the patient owes them.
async fn denied(rig: &Rig) -> Order {
    let request = insured_order("tok_visa");
    let claim_id = request.claim.as_ref().unwrap().claim_id.clone();
    let order = rig.place(request).await.unwrap();
    remit(rig, &claim_id, "0.00", "COPY-001").await;
    rig.becomes(&order.id, OrderState::BalanceDue).await
}

/// The payer tells of another payment for the 100 dirhams that it was asked for.
async fn remit(rig: &Rig, claim_id: &str, payment: &str, denial_code: &str) {
    let document = file(&[advice(claim_id, &[("A1", "100.00", payment, denial_code)])]);
    import(&rig.claims, &fresh(), &document).await.unwrap();
}

/// Pays what the patient owes.
async fn paid(rig: &Rig, order: &Order, payment_method: &str) -> Order {
    let paying = PayOrderRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        payment_method: payment_method.to_owned(),
    };
    // The payment service hears by an event of what the patient owes.
    eventually(SOON, || async {
        let paid = rig.payments.clone().pay_order(paying.clone()).await;
        paid.map_err(|status| status.to_string())
    })
    .await;
    rig.becomes(&order.id, OrderState::Settled).await
}

/// Begins to give back this many dirhams, or everything, and does not wait for the end.
async fn begin_to_refund(rig: &Rig, order: &Order, amount: Option<i64>) {
    let mut request = tonic::Request::new(RefundOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        amount: amount.map(aed),
        reason: "returned".to_owned(),
        ..RefundOrderRequest::default()
    });
    request.set_timeout(Duration::from_secs(2));
    // Out of time or not: the refund is written down, and its saga goes on.
    let _ = rig.orders.clone().refund_order(request).await;
}

/// Ten dirhams of a walk-in's thirty that cannot be given back, because the payment service is away for a while.
async fn stuck_refund(rig: &Rig) -> (Order, Saga) {
    let order = paid_at_once(rig, self_pay_order("tok_visa")).await;
    assert_eq!(order.state(), OrderState::Settled);
    rig.stack.stop(Service::Payment).await;
    begin_to_refund(rig, &order, Some(10)).await;
    let saga = becomes_stuck(rig, &order.id).await;
    assert_eq!(saga.current_step, "refund_payment");
    rig.stack.restart(Service::Payment).await;
    (order, saga)
}

/// Skips as soon as the payment service can be asked what is in its books.
async fn skip_now(rig: &Rig, saga: &Saga) -> Saga {
    let request = skipping(saga);
    eventually(SOON, || async {
        let skipped = skip(rig, request.clone()).await;
        skipped.map_err(|status| status.to_string())
    })
    .await
}

/// Why it can neither be skipped nor force-completed, once the payment service can be asked.
async fn refusals(rig: &Rig, saga: &Saga) -> [String; 2] {
    eventually(SOON, || async {
        let skipped = skip(rig, skipping(saga)).await.unwrap_err();
        let forced = force(rig, forcing(saga)).await.unwrap_err();
        let away = [&skipped, &forced]
            .iter()
            .any(|status| status.code() == tonic::Code::Unavailable);
        match away {
            true => Err(format!("{skipped} {forced}")),
            false => Ok([reason(&skipped), reason(&forced)]),
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
async fn a_refund_whose_step_is_skipped_fails_and_says_what_was_not_given_back() {
    let rig = Rig::with(hurried()).await;
    let (order, saga) = stuck_refund(&rig).await;
    let skipped = skip_now(&rig, &saga).await;
    assert_eq!(skipped.state(), SagaState::Completed);
    assert_eq!(state_of(&skipped, "refund_payment"), SagaStepState::Skipped);
    let left = rig.get(&order.id).await.unwrap();
    assert_eq!(left.state(), OrderState::Settled);
    assert_eq!(left.refunds[0].state(), OrderRefundState::Failed);
    assert_eq!(left.remarks[0].reason, "NOT_GIVEN_BACK");
    assert!(left.remarks[0].message.contains("10.00"), "{left:?}");
    assert_eq!(rig.money_of(&order.id).await, (30, 30, 0));

    // What was not given back is there to be refunded.
    begin_to_refund(&rig, &left, None).await;
    let returned = rig.becomes(&order.id, OrderState::Returned).await;
    assert_eq!(returned.refunded, Some(aed(30)));
    assert_eq!(rig.money_of(&order.id).await, (30, 30, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_was_made_by_hand_is_not_left_out_but_forced() {
    let rig = Rig::with(hurried()).await;
    let (order, saga) = stuck_refund(&rig).await;
    let untold = eventually(SOON, || async {
        let refused = force(&rig, forcing(&saga)).await.unwrap_err();
        match refused.code() {
            tonic::Code::Unavailable => Err(refused.to_string()),
            _ => Ok(reason(&refused)),
        }
    })
    .await;
    assert_eq!(untold, "NOT_GIVEN_BACK");
    let by_hand = RefundPaymentRequest {
        request_id: fresh(),
        id: rig.payments_of(&order.id).await[0].id.clone(),
        amount: Some(aed(10)),
        reason: "by telephone".to_owned(),
    };
    rig.payments.clone().refund_payment(by_hand).await.unwrap();
    let skipped = skip(&rig, skipping(&saga)).await.unwrap_err();
    assert_eq!(reason(&skipped), "GIVEN_BACK");
    let forced = force(&rig, forcing(&saga)).await.unwrap();
    assert_eq!(forced.state(), SagaState::Completed);
    let refunded = rig.get(&order.id).await.unwrap();
    assert_eq!(refunded.refunds[0].state(), OrderRefundState::Done);
    assert_eq!(refunded.refunded, Some(aed(10)));
    assert_eq!(refunded.remarks[0].reason, "DONE_BY_HAND");
    assert_eq!(rig.money_of(&order.id).await, (30, 30, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_is_on_its_way_is_neither_left_out_nor_forced() {
    let options = hurried().set(Service::Payment, "processor.ask_again_ms", "60000");
    let rig = Rig::with(options).await;
    let order = denied(&rig).await;
    let settled = paid(&rig, &order, "tok_refund_timeout").await;
    begin_to_refund(&rig, &settled, Some(120)).await;
    let saga = becomes_stuck(&rig, &order.id).await;
    assert_eq!(saga.current_step, "refund_balance");
    let shown = rig.saga(&saga.id).await;
    assert_eq!(state_of(&shown, "refund_payment"), SagaStepState::Succeeded);
    assert_eq!(refusals(&rig, &saga).await, ["REFUND_PENDING", "REFUND_PENDING"]);
    assert_eq!(rig.get(&order.id).await.unwrap().remarks, []);
    assert_eq!(rig.rows("select count(*) from orders.saga_action").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_whose_balance_cannot_be_let_go_ends_without_that() {
    let rig = Rig::with(hurried()).await;
    let order = denied(&rig).await;
    rig.stack.stop(Service::Payment).await;
    begin_to_refund(&rig, &order, None).await;
    let saga = becomes_stuck(&rig, &order.id).await;
    assert_eq!(saga.current_step, "void_balance");
    rig.stack.restart(Service::Payment).await;
    skip_now(&rig, &saga).await;

    let returned = rig.becomes(&order.id, OrderState::Returned).await;
    assert_eq!(returned.remarks[0].reason, "BALANCE_NOT_RELEASED");
    assert_eq!(returned.refunded, Some(aed(20)));
    let ended = rig.saga(&saga.id).await;
    let states = ["withdraw_claim", "void_balance", "refund_payment"].map(|step| state_of(&ended, step));
    assert_eq!(
        states,
        [
            SagaStepState::Succeeded,
            SagaStepState::Skipped,
            SagaStepState::Succeeded
        ]
    );
    let payments = rig.payments_of(&order.id).await;
    let balance = payments
        .iter()
        .find(|payment| payment.purpose() == PaymentPurpose::Balance);
    assert_eq!(balance.unwrap().state(), PaymentState::Created);
    assert_eq!(rig.claims_of(&order.id).await[0].state(), ClaimState::Withdrawn);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_ends_without_the_claims_service_which_withdraws_the_draft_when_it_is_back() {
    let rig = Rig::with(hurried()).await;
    let mut request = insured_order("tok_visa");
    request.capture_mode = CaptureMode::OnFulfilment.into();
    let order = rig.place(request).await.unwrap();
    rig.stack.stop(Service::Claims).await;
    let mut request = tonic::Request::new(CancelOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        reason: "the patient went home".to_owned(),
    });
    request.set_timeout(Duration::from_secs(2));
    rig.orders.clone().cancel_order(request).await.unwrap();
    let saga = becomes_stuck(&rig, &order.id).await;
    assert_eq!(saga.current_step, "withdraw_claim");
    skip_now(&rig, &saga).await;
    let cancelled = rig.becomes(&order.id, OrderState::Cancelled).await;
    assert_eq!(cancelled.remarks[0].reason, "CLAIM_NOT_WITHDRAWN");
    assert_eq!(rig.payments_of(&order.id).await[0].state(), PaymentState::Voided);
    rig.stack.restart(Service::Claims).await;
    eventually(SOON, || async {
        rig.claims_of(&order.id).await[0].state() == ClaimState::Withdrawn
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_waits_for_the_withdrawal_of_its_claim() {
    let rig = Rig::with(hurried()).await;
    let order = paid_at_once(&rig, insured_order("tok_visa")).await;
    rig.stack.stop(Service::Claims).await;
    begin_to_refund(&rig, &order, None).await;
    let saga = becomes_stuck(&rig, &order.id).await;
    assert_eq!(saga.current_step, "withdraw_claim");
    assert_eq!(refusals(&rig, &saga).await, ["STEP_NEEDED", "NOT_GIVEN_BACK"]);
    rig.stack.restart(Service::Claims).await;
    let returned = retried(&rig, &saga, (&order.id, OrderState::Returned)).await;
    assert_eq!(returned.refunded, Some(aed(20)));
    assert_eq!(returned.remarks, []);
    assert_eq!(rig.claims_of(&order.id).await[0].state(), ClaimState::Withdrawn);
}

/// The payer has paid what the patient had paid, and takes it back while the patient's money is on its way back.
#[tokio::test(flavor = "multi_thread")]
async fn a_credit_that_ends_while_it_is_given_back_is_owed_again() {
    let rig = Rig::with(hurried()).await;
    let order = denied(&rig).await;
    paid(&rig, &order, "tok_visa").await;
    let claim = rig.claims_of(&order.id).await.remove(0);
    let claim_id = claim.details.unwrap().claim_id;
    remit(&rig, &claim_id, "100.00", "").await;
    has_credit(&rig, &order, 100).await;
    rig.stack.stop(Service::Payment).await;
    begin_to_refund(&rig, &order, Some(100)).await;
    let saga = becomes_stuck(&rig, &order.id).await;
    assert_eq!(saga.current_step, "refund_balance");
    remit(&rig, &claim_id, "-100.00", "COPY-001").await;
    has_credit(&rig, &order, 0).await;

    rig.stack.restart(Service::Payment).await;
    let due = retried(&rig, &saga, (&order.id, OrderState::BalanceDue)).await;
    assert_eq!(
        (due.patient_balance, due.refunded),
        (Some(aed(100)), Some(aed(100)))
    );
    let owed = [("patient_receivable", 100), ("cash", 20), ("revenue", -120)];
    let owed = owed.map(|(account, units)| (account.to_owned(), units));
    eventually(SOON, || async {
        let balance = rig.balance_of(&order.id).await;
        match balance == owed {
            true => Ok(()),
            false => Err(format!("{balance:?}")),
        }
    })
    .await;
    let settled = paid(&rig, &order, "tok_visa").await;
    assert_eq!(settled.patient_credit, Some(aed(0)));
}

async fn has_credit(rig: &Rig, order: &Order, units: i64) {
    eventually(SOON, || async {
        let order = rig.get(&order.id).await.unwrap();
        match order.patient_credit == Some(aed(units)) {
            true => Ok(()),
            false => Err(format!("{order:?}")),
        }
    })
    .await;
}

//! Sagas that need a person: skipped and force-completed, through gRPC and the command line.

use std::time::Duration;

use proto::{
    claims::v1::ClaimState,
    ops::v1::{RetrySagaRequest, Saga, SagaActionKind, SagaState, SagaStepState, SkipSagaStepRequest},
    order::v1::{CancelOrderRequest, CaptureMode, Order, OrderState, SettlementHold},
    payment::v1::{CapturePaymentRequest, PaymentState},
};
use serde_json::Value;
use tests::{Service, eventually};
use tonic::Code;

use crate::{
    cli_rig::{Weft, errors},
    order_rig::{FACILITY, Rig, SOON, fresh, reason},
    samples::{insured_order, self_pay_order},
    stuck_rig::{becomes_stuck, begin_to_fulfil, force, forcing, impatient, skip, skipping},
};

/// A confirmed order whose hold cannot be released, and its cancellation, which is stuck at that.
async fn stuck_cancellation(rig: &Rig) -> (Order, Saga) {
    let mut request = insured_order("tok_void_fails");
    request.capture_mode = CaptureMode::OnFulfilment.into();
    let order = rig.place(request).await.unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    becomes_stuck_cancelling(rig, &order).await
}

/// Cancels a confirmed order whose payment cannot be voided.
async fn becomes_stuck_cancelling(rig: &Rig, order: &Order) -> (Order, Saga) {
    let mut request = tonic::Request::new(CancelOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        reason: "the patient went home".into(),
    });
    request.set_timeout(Duration::from_secs(2));
    let answer = rig.orders.clone().cancel_order(request).await.unwrap();
    let cancelling = answer.into_inner().order.unwrap();
    assert_eq!(cancelling.state(), OrderState::Cancelling);
    let saga = becomes_stuck(rig, &order.id).await;
    assert_eq!(saga.current_step, "void_payment");
    (cancelling, saga)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_whose_void_is_skipped_ends_and_says_that_the_hold_stands() {
    let rig = Rig::with(impatient()).await;
    let (order, saga) = stuck_cancellation(&rig).await;
    let request = skipping(&saga);
    let skipped = skip(&rig, request.clone()).await.unwrap();
    let action = &skipped.actions[0];
    assert_eq!(action.kind(), SagaActionKind::Skipped);
    assert_eq!(
        (action.step.as_str(), action.reason.as_str()),
        ("void_payment", "the network was told by telephone")
    );
    assert!(!action.actor.is_empty());

    let cancelled = rig.becomes(&order.id, OrderState::Cancelled).await;
    let remark = &cancelled.remarks[0];
    assert_eq!(
        (remark.reason.as_str(), remark.saga_id.as_str()),
        ("HOLD_NOT_RELEASED", saga.id.as_str())
    );
    assert!(
        remark.message.contains("20.00") && remark.message.ends_with("the network was told by telephone"),
        "{remark:?}"
    );
    let ended = rig.saga(&saga.id).await;
    assert_eq!(ended.state(), SagaState::Completed);
    let states: Vec<_> = ended
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.state()))
        .collect();
    assert_eq!(
        states,
        [
            ("void_payment", SagaStepState::Skipped),
            ("withdraw_claim", SagaStepState::Succeeded)
        ]
    );
    // Neither the payment nor the ledger says otherwise.
    assert_eq!(
        rig.payments_of(&order.id).await[0].state(),
        PaymentState::Authorized
    );
    assert_eq!(rig.claims_of(&order.id).await[0].state(), ClaimState::Withdrawn);
    assert!(rig.balance_of(&order.id).await.is_empty());

    // The same request has its first answer, whatever has become of the saga since; another one has nothing to do.
    assert_eq!(skip(&rig, request).await.unwrap(), skipped);
    let again = skip(&rig, skipping(&ended)).await.unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::FailedPrecondition, "SAGA_NOT_STUCK")
    );
    assert_eq!(
        rig.rows("select count(*) from orders.saga_action where actor <> '' and reason <> ''")
            .await,
        1
    );
    let told = "select count(*) from events.event_log where subject = 'evt.order.saga.step_skipped'";
    assert_eq!(rig.rows(told).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_cancellation_ends_at_once_and_says_what_was_done_by_hand() {
    let rig = Rig::with(impatient()).await;
    let (order, saga) = stuck_cancellation(&rig).await;
    let elsewhere = SkipSagaStepRequest {
        step: "withdraw_claim".into(),
        ..skipping(&saga)
    };
    assert_eq!(reason(&skip(&rig, elsewhere).await.unwrap_err()), "SAGA_MOVED");
    let forced = force(&rig, forcing(&saga)).await.unwrap();
    assert_eq!(forced.state(), SagaState::Completed);
    let cancelled = rig.get(&order.id).await.unwrap();
    assert_eq!(cancelled.state(), OrderState::Cancelled);
    assert_eq!(cancelled.remarks[0].reason, "DONE_BY_HAND");
    assert!(
        cancelled.remarks[0]
            .message
            .contains("void_payment, withdraw_claim")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_waits_for_its_claims_service_is_compensated_without_it() {
    let rig = Rig::with(impatient().only(&[Service::Order, Service::Payment])).await;
    let placed = rig.place(insured_order("tok_visa")).await.unwrap();
    let saga = becomes_stuck(&rig, &placed.id).await;
    assert_eq!(saga.current_step, "prepare_claim");
    skip(&rig, skipping(&saga)).await.unwrap();
    let rejected = rig.becomes(&placed.id, OrderState::Rejected).await;
    assert_eq!(rejected.remarks[0].reason, "CLAIM_NOT_WITHDRAWN");
    assert_eq!(rig.saga(&saga.id).await.state(), SagaState::Compensated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_claim_cannot_be_submitted_is_fulfilled_for_review() {
    let options = impatient().set(Service::Order, "saga.patience_s", "1");
    let rig = Rig::with(options).await;
    let mut request = insured_order("tok_visa");
    request.capture_mode = CaptureMode::OnFulfilment.into();
    let order = rig.place(request).await.unwrap();
    rig.stack.stop(Service::Claims).await;
    begin_to_fulfil(&rig, &order.id).await;
    let saga = becomes_stuck(&rig, &order.id).await;
    assert_eq!(saga.current_step, "submit_claim");
    skip(&rig, skipping(&saga)).await.unwrap();
    let fulfilled = rig.becomes(&order.id, OrderState::Fulfilled).await;
    assert_eq!(fulfilled.settlement_hold(), SettlementHold::Review);
    assert_eq!(fulfilled.remarks[0].reason, "CLAIM_NOT_SUBMITTED");
    let owed = [("cash", 20), ("payer_receivable", 100), ("revenue", -120)];
    eventually(SOON, || async {
        let found = rig.balance_of(&order.id).await;
        match owed
            .iter()
            .all(|(name, units)| found.contains(&((*name).to_owned(), *units)))
        {
            true => Ok(()),
            false => Err(format!("{found:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_payment_service_knows_is_not_said_otherwise() {
    let options = impatient().set(Service::Order, "saga.patience_s", "1").set(
        Service::Payment,
        "processor.ask_again_ms",
        "60000",
    );
    let rig = Rig::with(options).await;
    let order = rig.place(self_pay_order("tok_capture_timeout")).await.unwrap();
    begin_to_fulfil(&rig, &order.id).await;
    // The capture is made, and the payment service has not been told yet.
    let saga = becomes_stuck(&rig, &order.id).await;
    assert_eq!(saga.current_step, "capture_payment");
    // While a worker tries the step once more, the saga is busy.
    eventually(SOON, || async {
        reason(&skip(&rig, skipping(&saga)).await.unwrap_err()) == "STEP_NEEDED"
    })
    .await;
    eventually(SOON, || async {
        reason(&force(&rig, forcing(&saga)).await.unwrap_err()) == "NOT_CAPTURED"
    })
    .await;
    assert_eq!(rig.get(&order.id).await.unwrap().remarks, []);
    assert_eq!(rig.rows("select count(*) from orders.saga_action").await, 0);
}

/// Somebody has captured the payment by hand, and the card network has not told whether it has done that.
#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_cancelled_by_hand_while_a_capture_may_have_taken_its_money() {
    let options = impatient().set(Service::Order, "saga.patience_s", "1").set(
        Service::Payment,
        "processor.ask_again_ms",
        "60000",
    );
    let rig = Rig::with(options).await;
    let order = rig.place(self_pay_order("tok_capture_timeout")).await.unwrap();
    let by_hand = CapturePaymentRequest {
        request_id: fresh(),
        id: order.payment_id.clone(),
        amount: None,
    };
    let unheard = rig.payments.clone().capture_payment(by_hand).await.unwrap_err();
    assert_eq!(reason(&unheard), "PROCESSOR_TIMEOUT");
    let (order, saga) = becomes_stuck_cancelling(&rig, &order).await;
    refused_as(&rig, &saga, "PAYMENT_PENDING").await;
    assert_eq!(rig.rows("select count(*) from orders.saga_action").await, 0);

    // It is asked again, and had done it.
    let asked = "update payment.operation set lease_until = now() where state = 'UNKNOWN'";
    let payments = rig.stack.database(Service::Payment).superuser().await;
    sqlx::query(asked).execute(&payments).await.unwrap();
    eventually(SOON, || async { rig.money_of(&order.id).await == (30, 30, 0) }).await;
    refused_as(&rig, &saga, "PAYMENT_CAPTURED").await;
    assert_eq!(rig.get(&order.id).await.unwrap().state(), OrderState::Cancelling);
}

/// The saga can neither be skipped nor force-completed. While a worker tries its step, it is busy.
async fn refused_as(rig: &Rig, saga: &Saga, expected: &str) {
    eventually(SOON, || async {
        let skipped = skip(rig, skipping(saga)).await.unwrap_err();
        let forced = force(rig, forcing(saga)).await.unwrap_err();
        match [&skipped, &forced]
            .iter()
            .all(|refused| reason(refused) == expected)
        {
            true => Ok(()),
            false => Err(format!("{skipped} {forced}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_may_and_only_what_is_stuck() {
    let rig = Rig::with(impatient()).await;
    let order = rig.place(self_pay_order("")).await.unwrap();
    let saga = rig.saga(&order.saga_id).await;
    assert_eq!(saga.state(), SagaState::Waiting);
    let refused = force(&rig, forcing(&saga)).await.unwrap_err();
    assert_eq!(reason(&refused), "SAGA_NOT_STUCK");
    assert!(refused.message().contains("RetrySaga"), "{refused}");

    let clerk = rig.stack.token(FACILITY, &["clerk"]);
    let mut sagas = proto::ops::v1::saga_service_client::SagaServiceClient::new(
        rig.stack.connect(Service::Order, &clerk),
    );
    let refused = sagas.skip_saga_step(skipping(&saga)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let other = rig.stack.token("elsewhere", &["operator"]);
    let mut sagas = proto::ops::v1::saga_service_client::SagaServiceClient::new(
        rig.stack.connect(Service::Order, &other),
    );
    let refused = sagas.force_complete_saga(forcing(&saga)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_before_it_skips_and_names_what_comes_next() {
    let rig = Rig::with(impatient()).await;
    let (order, saga) = stuck_cancellation(&rig).await;
    let weft = Weft::of(&rig.stack, FACILITY, &["operator", "viewer"]);

    let listed = weft.run(&["saga", "list", "--stuck"]).await;
    let table = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(table.contains(&saga.id) && table.contains("STUCK"), "{table}");
    assert!(errors(&listed).contains(&format!("next: weft saga show {}", saga.id)));
    let beside = weft.run(&["dlq", "list"]).await;
    assert!(errors(&beside).contains("1 stuck sagas"), "{}", errors(&beside));

    let asked = weft
        .run(&["saga", "skip", &saga.id, "--reason", "the bank knows"])
        .await;
    assert_eq!(asked.status.code(), Some(2), "{}", errors(&asked));
    assert!(
        errors(&asked).contains("void_payment will not be carried out"),
        "{}",
        errors(&asked)
    );
    assert_eq!(rig.saga(&saga.id).await.state(), SagaState::Stuck);

    let skipped = weft
        .json(&["saga", "skip", &saga.id, "--reason", "the bank knows", "--yes"])
        .await;
    assert_eq!(skipped["saga"]["actions"][0]["kind"], "SAGA_ACTION_KIND_SKIPPED");
    rig.becomes(&order.id, OrderState::Cancelled).await;
    let shown = weft.run(&["order", "get", &order.id]).await;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        text.contains("HOLD_NOT_RELEASED") && text.contains("the bank knows"),
        "{text}"
    );

    let forced = weft
        .run(&[
            "saga",
            "force-complete",
            &saga.id,
            "--reason",
            "the bank knows",
            "--yes",
        ])
        .await;
    assert_eq!(forced.status.code(), Some(1));
    let ended = format!("saga {} is COMPLETED: there is no step", saga.id);
    assert!(errors(&forced).contains(&ended), "{}", errors(&forced));
    let nonsense = weft.run(&["saga", "show", "536365"]).await;
    assert!(
        errors(&nonsense).contains("must be a UUID"),
        "{}",
        errors(&nonsense)
    );
    assert_eq!(Value::Null, skipped["error"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_retry_is_on_record_with_its_author() {
    let rig = Rig::with(impatient()).await;
    let (_, saga) = stuck_cancellation(&rig).await;
    let request = RetrySagaRequest {
        request_id: fresh(),
        id: saga.id.clone(),
    };
    rig.sagas.clone().retry_saga(request).await.unwrap();
    let retried = rig.saga(&saga.id).await;
    assert_eq!(retried.actions[0].kind(), SagaActionKind::Retried);
    assert!(!retried.actions[0].actor.is_empty());
    becomes_stuck(&rig, &saga.order_id).await;
}

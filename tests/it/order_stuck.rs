//! Stuck sagas that an operator skips or force-completes, through gRPC and the command line.

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
    cli_fixture::{Weft, errors},
    order_fixture::{FACILITY, Fixture, SOON, fresh, reason},
    samples::{insured_order, self_pay_order},
    stuck_saga_fixture::{becomes_stuck, begin_to_fulfil, force, forcing, skip, skipping, stuck_soon},
};

/// A confirmed order whose authorization cannot be voided, and its stuck cancellation.
async fn stuck_cancellation(fixture: &Fixture) -> (Order, Saga) {
    let mut request = insured_order("tok_void_fails");
    request.capture_mode = CaptureMode::OnFulfilment.into();
    let order = fixture.place(request).await.unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    becomes_stuck_cancelling(fixture, &order).await
}

/// Cancels a confirmed order whose payment cannot be voided.
async fn becomes_stuck_cancelling(fixture: &Fixture, order: &Order) -> (Order, Saga) {
    let mut request = tonic::Request::new(CancelOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        reason: "the patient went home".into(),
    });
    request.set_timeout(Duration::from_secs(2));
    let answer = fixture.orders.clone().cancel_order(request).await.unwrap();
    let cancelling = answer.into_inner().order.unwrap();
    assert_eq!(cancelling.state(), OrderState::Cancelling);
    let saga = becomes_stuck(fixture, &order.id).await;
    assert_eq!(saga.current_step, "void_payment");
    (cancelling, saga)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_whose_void_is_skipped_ends_and_reports_the_remaining_hold() {
    let fixture = Fixture::with(stuck_soon()).await;
    let (order, saga) = stuck_cancellation(&fixture).await;
    let request = skipping(&saga);
    let skipped = skip(&fixture, request.clone()).await.unwrap();
    let action = &skipped.actions[0];
    assert_eq!(action.kind(), SagaActionKind::Skipped);
    assert_eq!(
        (action.step.as_str(), action.reason.as_str()),
        ("void_payment", "the network was notified by telephone")
    );
    assert!(!action.actor.is_empty());

    let cancelled = fixture.becomes(&order.id, OrderState::Cancelled).await;
    let remark = &cancelled.remarks[0];
    assert_eq!(
        (remark.reason.as_str(), remark.saga_id.as_str()),
        ("HOLD_NOT_RELEASED", saga.id.as_str())
    );
    assert!(
        remark.message.contains("20.00") && remark.message.ends_with("the network was notified by telephone"),
        "{remark:?}"
    );
    let ended = fixture.saga(&saga.id).await;
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
    // The payment and the ledger agree with it.
    assert_eq!(
        fixture.payments_of(&order.id).await[0].state(),
        PaymentState::Authorized
    );
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Withdrawn
    );
    assert!(fixture.balance_of(&order.id).await.is_empty());

    // A repeated request has its first answer, independent of the saga's later state; another one has nothing to
    // do.
    assert_eq!(skip(&fixture, request).await.unwrap(), skipped);
    let again = skip(&fixture, skipping(&ended)).await.unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::FailedPrecondition, "SAGA_NOT_STUCK")
    );
    assert_eq!(
        fixture
            .rows("select count(*) from orders.saga_action where actor <> '' and reason <> ''")
            .await,
        1
    );
    let published = "select count(*) from events.event_log where subject = 'evt.order.saga.step_skipped'";
    assert_eq!(fixture.rows(published).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_cancellation_ends_at_once_and_reports_what_was_done_by_hand() {
    let fixture = Fixture::with(stuck_soon()).await;
    let (order, saga) = stuck_cancellation(&fixture).await;
    let elsewhere = SkipSagaStepRequest {
        step: "withdraw_claim".into(),
        ..skipping(&saga)
    };
    assert_eq!(
        reason(&skip(&fixture, elsewhere).await.unwrap_err()),
        "SAGA_MOVED"
    );
    let forced = force(&fixture, forcing(&saga)).await.unwrap();
    assert_eq!(forced.state(), SagaState::Completed);
    let cancelled = fixture.get(&order.id).await.unwrap();
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
    let fixture = Fixture::with(stuck_soon().only(&[Service::Order, Service::Payment])).await;
    let placed = fixture.place(insured_order("tok_visa")).await.unwrap();
    let saga = becomes_stuck(&fixture, &placed.id).await;
    assert_eq!(saga.current_step, "prepare_claim");
    skip(&fixture, skipping(&saga)).await.unwrap();
    let rejected = fixture.becomes(&placed.id, OrderState::Rejected).await;
    assert_eq!(rejected.remarks[0].reason, "CLAIM_NOT_WITHDRAWN");
    assert_eq!(fixture.saga(&saga.id).await.state(), SagaState::Compensated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_claim_cannot_be_submitted_is_fulfilled_for_review() {
    let options = stuck_soon().set(Service::Order, "saga.patience_s", "1");
    let fixture = Fixture::with(options).await;
    let mut request = insured_order("tok_visa");
    request.capture_mode = CaptureMode::OnFulfilment.into();
    let order = fixture.place(request).await.unwrap();
    fixture.stack.stop(Service::Claims).await;
    begin_to_fulfil(&fixture, &order.id).await;
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "submit_claim");
    skip(&fixture, skipping(&saga)).await.unwrap();
    let fulfilled = fixture.becomes(&order.id, OrderState::Fulfilled).await;
    assert_eq!(fulfilled.settlement_hold(), SettlementHold::Review);
    assert_eq!(fulfilled.remarks[0].reason, "CLAIM_NOT_SUBMITTED");
    let owed = [("cash", 20), ("payer_receivable", 100), ("revenue", -120)];
    eventually(SOON, || async {
        let found = fixture.balance_of(&order.id).await;
        let all_found = owed
            .iter()
            .all(|(name, units)| found.contains(&((*name).to_owned(), *units)));
        if all_found {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_cannot_contradict_what_the_payment_service_has_recorded() {
    let options = stuck_soon().set(Service::Order, "saga.patience_s", "1").set(
        Service::Payment,
        "processor.ask_again_ms",
        "60000",
    );
    let fixture = Fixture::with(options).await;
    let order = fixture
        .place(self_pay_order("tok_capture_timeout"))
        .await
        .unwrap();
    begin_to_fulfil(&fixture, &order.id).await;
    // The capture is made, and the payment service has no answer yet.
    let saga = becomes_stuck(&fixture, &order.id).await;
    assert_eq!(saga.current_step, "capture_payment");
    // While a worker retries the step, the saga is busy.
    eventually(SOON, || async {
        reason(&skip(&fixture, skipping(&saga)).await.unwrap_err()) == "STEP_NEEDED"
    })
    .await;
    eventually(SOON, || async {
        reason(&force(&fixture, forcing(&saga)).await.unwrap_err()) == "NOT_CAPTURED"
    })
    .await;
    assert_eq!(fixture.get(&order.id).await.unwrap().remarks, []);
    assert_eq!(fixture.rows("select count(*) from orders.saga_action").await, 0);
}

/// The payment was captured by hand, and the card network has not answered yet whether it was.
#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_cancelled_by_hand_while_a_capture_may_have_taken_its_money() {
    let options = stuck_soon().set(Service::Order, "saga.patience_s", "1").set(
        Service::Payment,
        "processor.ask_again_ms",
        "60000",
    );
    let fixture = Fixture::with(options).await;
    let order = fixture
        .place(self_pay_order("tok_capture_timeout"))
        .await
        .unwrap();
    let by_hand = CapturePaymentRequest {
        request_id: fresh(),
        id: order.payment_id.clone(),
        amount: None,
    };
    let timed_out = fixture
        .payments
        .clone()
        .capture_payment(by_hand)
        .await
        .unwrap_err();
    assert_eq!(reason(&timed_out), "PROCESSOR_TIMEOUT");
    let (order, saga) = becomes_stuck_cancelling(&fixture, &order).await;
    refused_as(&fixture, &saga, "PAYMENT_PENDING").await;
    assert_eq!(fixture.rows("select count(*) from orders.saga_action").await, 0);

    // The network is queried again, and had captured it.
    let asked = "update payment.operation set lease_until = now() where state = 'UNKNOWN'";
    let payments = fixture.stack.database(Service::Payment).superuser().await;
    sqlx::query(asked).execute(&payments).await.unwrap();
    eventually(SOON, || async {
        fixture.money_of(&order.id).await == (30, 30, 0)
    })
    .await;
    refused_as(&fixture, &saga, "PAYMENT_CAPTURED").await;
    assert_eq!(
        fixture.get(&order.id).await.unwrap().state(),
        OrderState::Cancelling
    );
}

/// Asserts that the saga can neither be skipped nor force-completed. While a worker tries its step, it is busy.
async fn refused_as(fixture: &Fixture, saga: &Saga, expected: &str) {
    eventually(SOON, || async {
        let skipped = skip(fixture, skipping(saga)).await.unwrap_err();
        let forced = force(fixture, forcing(saga)).await.unwrap_err();
        let refused = [&skipped, &forced]
            .iter()
            .all(|refused| reason(refused) == expected);
        if refused {
            Ok(())
        } else {
            Err(format!("{skipped} {forced}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_may_intervene_and_only_in_stuck_sagas() {
    let fixture = Fixture::with(stuck_soon()).await;
    let order = fixture.place(self_pay_order("")).await.unwrap();
    let saga = fixture.saga(&order.saga_id).await;
    assert_eq!(saga.state(), SagaState::Waiting);
    let refused = force(&fixture, forcing(&saga)).await.unwrap_err();
    assert_eq!(reason(&refused), "SAGA_NOT_STUCK");
    assert!(refused.message().contains("RetrySaga"), "{refused}");

    let clerk = fixture.stack.token(FACILITY, &["clerk"]);
    let mut sagas = proto::ops::v1::saga_service_client::SagaServiceClient::new(
        fixture.stack.connect(Service::Order, &clerk),
    );
    let refused = sagas.skip_saga_step(skipping(&saga)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let other = fixture.stack.token("elsewhere", &["operator"]);
    let mut sagas = proto::ops::v1::saga_service_client::SagaServiceClient::new(
        fixture.stack.connect(Service::Order, &other),
    );
    let refused = sagas.force_complete_saga(forcing(&saga)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_before_it_skips_and_names_what_comes_next() {
    let fixture = Fixture::with(stuck_soon()).await;
    let (order, saga) = stuck_cancellation(&fixture).await;
    let weft = Weft::new(&fixture.stack, FACILITY, &["operator", "viewer"]);

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
    assert_eq!(fixture.saga(&saga.id).await.state(), SagaState::Stuck);

    let skipped = weft
        .json(&["saga", "skip", &saga.id, "--reason", "the bank knows", "--yes"])
        .await;
    assert_eq!(skipped["saga"]["actions"][0]["kind"], "SAGA_ACTION_KIND_SKIPPED");
    fixture.becomes(&order.id, OrderState::Cancelled).await;
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
    let fixture = Fixture::with(stuck_soon()).await;
    let (_, saga) = stuck_cancellation(&fixture).await;
    let request = RetrySagaRequest {
        request_id: fresh(),
        id: saga.id.clone(),
    };
    fixture.sagas.clone().retry_saga(request).await.unwrap();
    let retried = fixture.saga(&saga.id).await;
    assert_eq!(retried.actions[0].kind(), SagaActionKind::Retried);
    assert!(!retried.actions[0].actor.is_empty());
    becomes_stuck(&fixture, &saga.order_id).await;
}

//! Cancellation, refunds and settlement of orders.

use proto::{
    claims::v1::ClaimState,
    google::r#type::Decimal,
    ops::v1::{RetrySagaRequest, SagaState},
    order::v1::{CaptureMode, Order, OrderRefundState, OrderState, RefundLine, RefundOrderRequest},
    payment::v1::PaymentState,
};
use tests::{Options, Service, eventually};
use tonic::Code;

use crate::{
    order_fixture::{Fixture, SOON, fresh, reason, step_names},
    samples::{aed, insured_order, line, self_pay_order},
    stuck_saga_fixture::retried,
};

fn refund(order: &Order) -> RefundOrderRequest {
    RefundOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        ..RefundOrderRequest::default()
    }
}

async fn settled_order(fixture: &Fixture) -> Order {
    let mut request = self_pay_order("tok_visa");
    request.capture_mode = CaptureMode::Immediate.into();
    request.lines = vec![line("A", 10), line("B", 20)];
    request.lines[0].quantity = Some(Decimal { value: "3".into() });
    let order = fixture.place(request).await.unwrap();
    assert_eq!(order.state(), OrderState::Settled);
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_leaves_no_hold_and_no_claim() {
    let fixture = Fixture::start().await;
    for payment_method in ["tok_visa", ""] {
        let mut request = insured_order(payment_method);
        request.capture_mode = CaptureMode::OnFulfilment.into();
        let order = fixture.place(request).await.unwrap();
        let cancelled = fixture.cancel(&order.id).await.unwrap();
        assert_eq!(cancelled.state(), OrderState::Cancelled);
        assert_eq!(cancelled.failure.unwrap().message, "the patient went home");
        assert_eq!(
            step_names(&fixture.saga(&cancelled.saga_id).await),
            ["void_payment", "withdraw_claim"]
        );
        assert_eq!(
            fixture.payments_of(&order.id).await[0].state(),
            PaymentState::Voided
        );
        assert_eq!(
            fixture.claims_of(&order.id).await[0].state(),
            ClaimState::Withdrawn
        );
        let refused = fixture.fulfil(&order.id).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::FailedPrecondition, "ORDER_CANCELLED")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_fulfilment_and_cancellation_have_one_winner() {
    let fixture = Fixture::start().await;
    for _ in 0..5 {
        let order = fixture.place(self_pay_order("tok_visa")).await.unwrap();
        let (fulfilled, cancelled) = tokio::join!(fixture.fulfil(&order.id), fixture.cancel(&order.id));
        assert!(
            fulfilled.is_ok() != cancelled.is_ok(),
            "{fulfilled:?} {cancelled:?}"
        );
        let captured = fixture.money_of(&order.id).await.1;
        assert_eq!(captured, if fulfilled.is_ok() { 30 } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_returned_in_parts_until_the_order_is_returned() {
    let fixture = Fixture::start().await;
    let order = settled_order(&fixture).await;
    let one_third = || RefundLine {
        number: 1,
        quantity: Some(Decimal { value: "1".into() }),
        amount: None,
    };
    for expected in [1_i32, 2] {
        let request = RefundOrderRequest {
            lines: vec![one_third()],
            reference: format!("R{expected}"),
            ..refund(&order)
        };
        let refunded = fixture.refund(request).await.unwrap();
        assert_eq!(refunded.refunds.len(), usize::try_from(expected).unwrap());
        assert_eq!(
            refunded.lines[0].refunded_quantity.as_ref().unwrap().value,
            expected.to_string()
        );
    }
    let again = RefundOrderRequest {
        lines: vec![one_third()],
        reference: "R1".into(),
        ..refund(&order)
    };
    assert_eq!(
        fixture.refund(again).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    let mut too_many = one_third();
    too_many.quantity = Some(Decimal { value: "2".into() });
    let refused = fixture
        .refund(RefundOrderRequest {
            lines: vec![too_many],
            ..refund(&order)
        })
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "REFUND_EXCEEDS_LINE");

    let returned = fixture.refund(refund(&order)).await.unwrap();
    assert_eq!(returned.state(), OrderState::Returned);
    assert_eq!(returned.refunded, Some(aed(30)));
    assert_eq!(fixture.money_of(&order.id).await, (30, 30, 30));
    eventually(SOON, || async { fixture.balance_of(&order.id).await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_refunds_never_exceed_what_was_paid() {
    let fixture = Fixture::start().await;
    let order = settled_order(&fixture).await;
    let calls = (0..8).map(|_| {
        fixture.refund(RefundOrderRequest {
            amount: Some(aed(10)),
            ..refund(&order)
        })
    });
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.is_ok()).count(),
        3,
        "{answers:?}"
    );
    eventually(SOON, || async {
        fixture.money_of(&order.id).await == (30, 30, 30)
    })
    .await;
    assert_eq!(
        fixture.becomes(&order.id, OrderState::Returned).await.refunded,
        Some(aed(30))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_refund_is_reported_and_no_longer_counted() {
    let fixture = Fixture::start().await;
    let mut request = self_pay_order("tok_refund_fails");
    request.capture_mode = CaptureMode::Immediate.into();
    let order = fixture.place(request).await.unwrap();
    let answered = fixture.refund(refund(&order)).await.unwrap();
    assert_eq!(answered.state(), OrderState::Settled);
    assert_eq!(answered.refunds[0].state(), OrderRefundState::Failed);
    assert_eq!(answered.refunded, Some(aed(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_return_of_an_insured_order_withdraws_the_claim_and_clears_the_ledger() {
    let fixture = Fixture::start().await;
    let order = fixture.place(insured_order("tok_visa")).await.unwrap();
    assert_eq!(order.state(), OrderState::Fulfilled);
    let owed = [("payer_receivable", 100), ("cash", 20), ("revenue", -120)];
    eventually(SOON, || async {
        let found = fixture.balance_of(&order.id).await;
        let expected = |(name, units): &(&str, i64)| found.contains(&((*name).to_owned(), *units));
        if owed.iter().all(expected) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
    let lines = vec![RefundLine {
        number: 1,
        quantity: Some(Decimal { value: "1".into() }),
        amount: None,
    }];
    let refused = fixture
        .refund(RefundOrderRequest {
            lines,
            ..refund(&order)
        })
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "ORDER_INSURED");

    let returned = fixture.refund(refund(&order)).await.unwrap();
    assert_eq!(returned.state(), OrderState::Returned);
    assert_eq!(
        step_names(&fixture.saga(&returned.saga_id).await),
        ["withdraw_claim", "refund_payment"]
    );
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Withdrawn
    );
    eventually(SOON, || async { fixture.balance_of(&order.id).await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compensation_that_keeps_failing_is_stuck_until_an_operator_retries_it() {
    let options = Options::default()
        .set(Service::Order, "saga.step_tries", "2")
        .set(Service::Order, "saga.backoff_ms", "20")
        .only(&[Service::Order, Service::Payment]);
    let fixture = Fixture::with(options).await;
    // The claims service is down: neither the draft nor its withdrawal is processed.
    let placed = fixture.place(insured_order("tok_visa")).await;
    assert_eq!(placed.unwrap().state(), OrderState::Pending);
    let stuck = eventually(SOON, || async {
        let sagas = fixture
            .rows("select count(*) from orders.saga where state = 'stuck'")
            .await;
        (sagas == 1).then_some(())
    });
    stuck.await;
    let order_id: String = {
        let pool = fixture.stack.database(Service::Order).superuser().await;
        sqlx::query_scalar("select id::text from orders.placed_order")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    let saga = fixture.sagas_of(&order_id).await.remove(0);
    assert_eq!(
        (saga.state(), saga.current_step.as_str()),
        (SagaState::Stuck, "prepare_claim")
    );

    fixture.stack.restart(Service::Claims).await;
    let order = retried(&fixture, &saga, (&order_id, OrderState::Rejected)).await;
    assert_eq!(fixture.saga(&order.saga_id).await.state(), SagaState::Compensated);
    let ended = RetrySagaRequest {
        request_id: fresh(),
        id: saga.id,
    };
    assert_eq!(
        reason(&fixture.sagas.clone().retry_saga(ended).await.unwrap_err()),
        "SAGA_ENDED"
    );
}

//! Placing orders: confirmation, rejection, and the state that remains.

use std::time::Duration;

use proto::{
    claims::v1::{ClaimState, Diagnosis, DiagnosisType},
    ops::v1::SagaState,
    order::v1::{OrderState, PlaceOrderRequest},
    payment::v1::{PayOrderRequest, PaymentState},
};
use tests::{Durability, Options, Service, eventually};
use tonic::Code;

use crate::{
    order_fixture::{FACILITY, Fixture, SOON, fresh, reason, step_names},
    samples::{aed, insured_order, line, self_pay_order},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_as_far_as_its_capture_mode_says() {
    let fixture = Fixture::start().await;

    let confirmed = fixture.place(self_pay_order("tok_visa")).await.unwrap();
    assert_eq!(confirmed.state(), OrderState::Confirmed);
    assert_eq!(fixture.money_of(&confirmed.id).await, (30, 0, 0));
    let settled = fixture.fulfil(&confirmed.id).await.unwrap();
    assert_eq!(settled.state(), OrderState::Settled);
    assert_eq!(fixture.money_of(&confirmed.id).await, (30, 30, 0));

    let fulfilled = fixture.place(insured_order("tok_visa")).await.unwrap();
    assert_eq!(fulfilled.state(), OrderState::Fulfilled);
    assert_eq!(fixture.money_of(&fulfilled.id).await, (20, 20, 0));
    let saga = fixture.saga(&fulfilled.saga_id).await;
    assert_eq!(
        step_names(&saga),
        [
            "prepare_claim",
            "authorize_payment",
            "capture_payment",
            "submit_claim"
        ]
    );
    assert_eq!(saga.state(), SagaState::Completed);
    assert!(saga.steps[2].pivot);

    let again = fixture.fulfil(&fulfilled.id).await.unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::FailedPrecondition, "ORDER_FULFILLED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_card_rejects_the_order_and_withdraws_its_claim() {
    let fixture = Fixture::start().await;
    let order = fixture
        .place(insured_order("tok_insufficient_funds"))
        .await
        .unwrap();
    assert_eq!(order.state(), OrderState::Rejected);
    assert_eq!(order.failure.unwrap().reason, "INSUFFICIENT_FUNDS");
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Withdrawn
    );
    let saga = fixture.saga(&order.saga_id).await;
    assert_eq!(
        step_names(&saga),
        [
            "prepare_claim",
            "authorize_payment",
            "undo authorize_payment",
            "undo prepare_claim"
        ]
    );
    assert_eq!(saga.state(), SagaState::Compensated);
    let late = PayOrderRequest {
        request_id: fresh(),
        order_id: order.id,
        payment_method: "tok_visa".into(),
    };
    let refused = fixture.payments.clone().pay_order(late).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_claim_rejects_the_order_with_every_violation_and_takes_no_money() {
    let fixture = Fixture::start().await;
    let mut request = insured_order("tok_visa");
    let claim = request.claim.as_mut().unwrap();
    claim.diagnoses.push(Diagnosis {
        r#type: DiagnosisType::Principal.into(),
        code: "E78.5".into(),
    });
    claim.activities[0].net = Some(aed(90));

    let checked = PlaceOrderRequest {
        validate_only: true,
        ..request.clone()
    };
    let refused = fixture.place(checked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let order = fixture.place(request).await.unwrap();
    assert_eq!(order.state(), OrderState::Rejected);
    let failure = order.failure.unwrap();
    assert_eq!(failure.reason, "CLAIM_INVALID");
    assert!(failure.violations.len() >= 2, "{failure:?}");
    assert!(
        failure
            .violations
            .iter()
            .all(|violation| violation.field.starts_with("claim")),
        "{failure:?}"
    );
    assert!(fixture.payments_of(&order.id).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timed_out_charge_is_queried_and_never_repeated() {
    let fixture = Fixture::start().await;
    let charged = fixture
        .place(self_pay_order("tok_timeout_charged"))
        .await
        .unwrap();
    let charged = fixture.becomes(&charged.id, OrderState::Confirmed).await;
    assert_eq!(fixture.money_of(&charged.id).await, (30, 0, 0));

    let lost = fixture
        .place(self_pay_order("tok_timeout_not_charged"))
        .await
        .unwrap();
    let lost = fixture.becomes(&lost.id, OrderState::Rejected).await;
    assert_eq!(fixture.money_of(&lost.id).await, (0, 0, 0));
    assert_eq!(fixture.saga(&lost.saga_id).await.state(), SagaState::Compensated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_capture_undoes_everything_in_reverse() {
    let fixture = Fixture::start().await;
    let order = fixture.place(insured_order("tok_capture_fails")).await.unwrap();
    let order = fixture.becomes(&order.id, OrderState::Cancelled).await;
    let saga = fixture.saga(&order.saga_id).await;
    assert_eq!(
        step_names(&saga),
        [
            "prepare_claim",
            "authorize_payment",
            "capture_payment",
            "undo authorize_payment",
            "undo prepare_claim"
        ]
    );
    assert_eq!(
        fixture.payments_of(&order.id).await[0].state(),
        PaymentState::Voided
    );
    assert_eq!(
        fixture.claims_of(&order.id).await[0].state(),
        ClaimState::Withdrawn
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_fulfilment_fails_is_cancelled() {
    let fixture = Fixture::start().await;
    let order = fixture.place(self_pay_order("tok_capture_fails")).await.unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    let given_up = fixture.fulfil(&order.id).await.unwrap();
    assert_eq!(given_up.state(), OrderState::Cancelled);
    assert_eq!(
        fixture.payments_of(&order.id).await[0].state(),
        PaymentState::Voided
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn inconsistent_amounts_are_all_named_and_nothing_is_written() {
    let fixture = Fixture::start().await;
    let mut request = insured_order("tok_visa");
    request.lines.push(line("X", 1));
    request.patient_share = Some(aed(30));
    let refused = fixture.place(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for field in ["claim.net", "claim.gross", "claim.patient_share"] {
        assert!(refused.message().contains(field), "{refused:?}");
    }
    for table in [
        "orders.placed_order",
        "orders.saga",
        "chassis.idempotency",
        "events.event_log",
    ] {
        assert_eq!(
            fixture.rows(&format!("select count(*) from {table}")).await,
            0,
            "{table}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_short_deadline_is_answered_while_its_saga_continues() {
    let fixture = Fixture::with(
        Options::default()
            .set(Service::Payment, "sandbox.slow_ms", "2500")
            .set(Service::Payment, "processor.timeout_ms", "8000"),
    )
    .await;
    // On a machine that is too slow for one deadline, a later call is answered in time.
    for _ in 0..20 {
        let mut request = tonic::Request::new(self_pay_order("tok_slow"));
        request.set_timeout(Duration::from_millis(1_500));
        match fixture.orders.clone().place_order(request).await {
            Ok(answer) => {
                let order = answer.into_inner().order.unwrap();
                assert_eq!(order.state(), OrderState::Pending);
                fixture.becomes(&order.id, OrderState::Confirmed).await;
                return;
            }
            Err(status) => assert!(
                matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded),
                "{status:?}"
            ),
        }
    }
    panic!("no call was answered before its deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_completes_after_a_participant_was_down() {
    let fixture = Fixture::start().await;
    fixture.stack.kill9(Service::Payment);
    let mut request = tonic::Request::new(self_pay_order("tok_visa"));
    request.set_timeout(Duration::from_secs(2));
    let order = fixture
        .orders
        .clone()
        .place_order(request)
        .await
        .unwrap()
        .into_inner()
        .order
        .unwrap();
    assert_eq!(order.state(), OrderState::Pending);
    fixture.stack.restart(Service::Payment).await;
    fixture.becomes(&order.id, OrderState::Confirmed).await;
    assert_eq!(fixture.money_of(&order.id).await, (30, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_facility_sees_nothing_of_an_order() {
    let fixture = Fixture::start().await;
    let order = fixture.place(self_pay_order("tok_visa")).await.unwrap();
    let stranger = fixture.stack.token("elsewhere", &["admin"]);
    let mut orders = proto::order::v1::order_service_client::OrderServiceClient::new(
        fixture.stack.connect(Service::Order, &stranger),
    );
    let request = proto::order::v1::GetOrderRequest {
        id: order.id.clone(),
        reference: String::new(),
    };
    assert_eq!(
        orders.get_order(request).await.unwrap_err().code(),
        Code::NotFound
    );
    let request = proto::order::v1::CancelOrderRequest {
        request_id: fresh(),
        id: order.id,
        reason: String::new(),
    };
    assert_eq!(
        orders.cancel_order(request).await.unwrap_err().code(),
        Code::NotFound
    );

    let pool = fixture.stack.database(Service::Order).app().await;
    for (facility, expected) in [(None, 0_i64), (Some("elsewhere"), 0), (Some(FACILITY), 1)] {
        let mut tx = pool.begin().await.unwrap();
        if let Some(facility) = facility {
            let set = sqlx::query("select set_config('weft.facility', $1, true)").bind(facility);
            set.execute(&mut *tx).await.unwrap();
        }
        for table in ["placed_order", "saga"] {
            let query = sqlx::AssertSqlSafe(format!("select count(*) from orders.{table}"));
            let count: i64 = sqlx::query_scalar(query).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(count, expected, "{table} as {facility:?}");
        }
    }
    tests::eventually(SOON, || async {
        fixture.rows("select count(*) from events.outbox").await == 0
    })
    .await;
}

/// The process that drives the saga is alive: after a database outage it should not wait for its lease to expire.
#[tokio::test(flavor = "multi_thread")]
async fn a_saga_interrupted_by_a_database_outage_continues_after_it() {
    let options = Options::default()
        .own_postgres(Durability::Durable)
        .set(Service::Order, "saga.lease_ms", "60000")
        .set(Service::Payment, "sandbox.slow_ms", "1000")
        .set(Service::Payment, "processor.timeout_ms", "2000");
    let fixture = Fixture::with(options).await;
    let placing = {
        let mut orders = fixture.orders.clone();
        tokio::spawn(async move { orders.place_order(self_pay_order("tok_slow")).await })
    };
    let under_way = "select count(*) from sandbox.card_authorization";
    eventually(SOON, || async {
        fixture.stack.database(Service::Payment).count(under_way).await == 1
    })
    .await;
    fixture.stack.postgres().kill9();
    let _ = placing.await.unwrap();
    fixture.stack.postgres().restart().await;
    let confirmed = "select count(*) from orders.placed_order where state = 'confirmed'";
    eventually(SOON, || async { fixture.rows(confirmed).await == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_code_has_no_blank_or_invisible_characters() {
    let fixture = Fixture::start().await;
    for code in ["  ", "A\nB", "A\u{7}", "\u{85}"] {
        let mut request = self_pay_order("tok_visa");
        request.lines = vec![line(code, 10)];
        let refused = fixture.place(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{code:?}");
        assert!(
            refused
                .message()
                .contains("must not be blank or hold control characters"),
            "{refused}"
        );
    }
    let mut request = self_pay_order("tok_visa");
    request.lines = vec![line("Ä 1/2-β", 10)];
    fixture.place(request).await.unwrap();
}

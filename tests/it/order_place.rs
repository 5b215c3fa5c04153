//! Placing orders: what is confirmed, what is refused, and what is left of it.

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
    order_rig::{FACILITY, Rig, SOON, fresh, reason, story},
    samples::{aed, insured_order, line, self_pay_order},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_as_far_as_its_capture_mode_says() {
    let rig = Rig::start().await;

    let confirmed = rig.place(self_pay_order("tok_visa")).await.unwrap();
    assert_eq!(confirmed.state(), OrderState::Confirmed);
    assert_eq!(rig.money_of(&confirmed.id).await, (30, 0, 0));
    let settled = rig.fulfil(&confirmed.id).await.unwrap();
    assert_eq!(settled.state(), OrderState::Settled);
    assert_eq!(rig.money_of(&confirmed.id).await, (30, 30, 0));

    let fulfilled = rig.place(insured_order("tok_visa")).await.unwrap();
    assert_eq!(fulfilled.state(), OrderState::Fulfilled);
    assert_eq!(rig.money_of(&fulfilled.id).await, (20, 20, 0));
    let saga = rig.saga(&fulfilled.saga_id).await;
    assert_eq!(
        story(&saga),
        [
            "prepare_claim",
            "authorize_payment",
            "capture_payment",
            "submit_claim"
        ]
    );
    assert_eq!(saga.state(), SagaState::Completed);
    assert!(saga.steps[2].pivot);

    let again = rig.fulfil(&fulfilled.id).await.unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::FailedPrecondition, "ORDER_FULFILLED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_card_rejects_the_order_and_withdraws_its_claim() {
    let rig = Rig::start().await;
    let order = rig.place(insured_order("tok_insufficient_funds")).await.unwrap();
    assert_eq!(order.state(), OrderState::Rejected);
    assert_eq!(order.failure.unwrap().reason, "INSUFFICIENT_FUNDS");
    assert_eq!(rig.claims_of(&order.id).await[0].state(), ClaimState::Withdrawn);
    let saga = rig.saga(&order.saga_id).await;
    assert_eq!(
        story(&saga),
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
    let refused = rig.payments.clone().pay_order(late).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_claim_rejects_the_order_with_every_violation_and_takes_no_money() {
    let rig = Rig::start().await;
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
    let refused = rig.place(checked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let order = rig.place(request).await.unwrap();
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
    assert!(rig.payments_of(&order.id).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timed_out_charge_is_found_out_about_and_never_repeated() {
    let rig = Rig::start().await;
    let charged = rig.place(self_pay_order("tok_timeout_charged")).await.unwrap();
    let charged = rig.becomes(&charged.id, OrderState::Confirmed).await;
    assert_eq!(rig.money_of(&charged.id).await, (30, 0, 0));

    let lost = rig
        .place(self_pay_order("tok_timeout_not_charged"))
        .await
        .unwrap();
    let lost = rig.becomes(&lost.id, OrderState::Rejected).await;
    assert_eq!(rig.money_of(&lost.id).await, (0, 0, 0));
    assert_eq!(rig.saga(&lost.saga_id).await.state(), SagaState::Compensated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_capture_undoes_everything_in_reverse() {
    let rig = Rig::start().await;
    let order = rig.place(insured_order("tok_capture_fails")).await.unwrap();
    let order = rig.becomes(&order.id, OrderState::Cancelled).await;
    let saga = rig.saga(&order.saga_id).await;
    assert_eq!(
        story(&saga),
        [
            "prepare_claim",
            "authorize_payment",
            "capture_payment",
            "undo authorize_payment",
            "undo prepare_claim"
        ]
    );
    assert_eq!(rig.payments_of(&order.id).await[0].state(), PaymentState::Voided);
    assert_eq!(rig.claims_of(&order.id).await[0].state(), ClaimState::Withdrawn);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_fulfilled_in_vain_is_cancelled() {
    let rig = Rig::start().await;
    let order = rig.place(self_pay_order("tok_capture_fails")).await.unwrap();
    assert_eq!(order.state(), OrderState::Confirmed);
    let given_up = rig.fulfil(&order.id).await.unwrap();
    assert_eq!(given_up.state(), OrderState::Cancelled);
    assert_eq!(rig.payments_of(&order.id).await[0].state(), PaymentState::Voided);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_that_do_not_add_up_are_all_named_and_nothing_is_written() {
    let rig = Rig::start().await;
    let mut request = insured_order("tok_visa");
    request.lines.push(line("X", 1));
    request.patient_share = Some(aed(30));
    let refused = rig.place(request).await.unwrap_err();
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
            rig.rows(&format!("select count(*) from {table}")).await,
            0,
            "{table}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_deadline_is_answered_with_the_saga_going_on() {
    let rig = Rig::with(
        Options::default()
            .set(Service::Payment, "sandbox.slow_ms", "2500")
            .set(Service::Payment, "processor.timeout_ms", "8000"),
    )
    .await;
    // On a machine that is too slow for one deadline, another call is answered in time.
    for _ in 0..20 {
        let mut request = tonic::Request::new(self_pay_order("tok_slow"));
        request.set_timeout(Duration::from_millis(1_500));
        match rig.orders.clone().place_order(request).await {
            Ok(answer) => {
                let order = answer.into_inner().order.unwrap();
                assert_eq!(order.state(), OrderState::Pending);
                rig.becomes(&order.id, OrderState::Confirmed).await;
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
async fn an_order_is_saved_from_a_participant_that_is_down() {
    let rig = Rig::start().await;
    rig.stack.kill9(Service::Payment);
    let mut request = tonic::Request::new(self_pay_order("tok_visa"));
    request.set_timeout(Duration::from_secs(2));
    let order = rig
        .orders
        .clone()
        .place_order(request)
        .await
        .unwrap()
        .into_inner()
        .order
        .unwrap();
    assert_eq!(order.state(), OrderState::Pending);
    rig.stack.restart(Service::Payment).await;
    rig.becomes(&order.id, OrderState::Confirmed).await;
    assert_eq!(rig.money_of(&order.id).await, (30, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_facility_sees_nothing_of_an_order() {
    let rig = Rig::start().await;
    let order = rig.place(self_pay_order("tok_visa")).await.unwrap();
    let stranger = rig.stack.token("elsewhere", &["admin"]);
    let mut orders = proto::order::v1::order_service_client::OrderServiceClient::new(
        rig.stack.connect(Service::Order, &stranger),
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

    let pool = rig.stack.database(Service::Order).app().await;
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
        rig.rows("select count(*) from events.outbox").await == 0
    })
    .await;
}

/// The process that drives a saga is alive: its lease should not have to run out only because the database was away.
#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_the_database_has_interrupted_goes_on_when_it_is_back() {
    let options = Options::default()
        .own_postgres(Durability::Durable)
        .set(Service::Order, "saga.lease_ms", "60000")
        .set(Service::Payment, "sandbox.slow_ms", "1000")
        .set(Service::Payment, "processor.timeout_ms", "2000");
    let rig = Rig::with(options).await;
    let placing = {
        let mut orders = rig.orders.clone();
        tokio::spawn(async move { orders.place_order(self_pay_order("tok_slow")).await })
    };
    let under_way = "select count(*) from sandbox.card_authorization";
    eventually(SOON, || async {
        rig.stack.database(Service::Payment).count(under_way).await == 1
    })
    .await;
    rig.stack.postgres().kill9();
    let _ = placing.await.unwrap();
    rig.stack.postgres().restart().await;
    let confirmed = "select count(*) from orders.placed_order where state = 'confirmed'";
    eventually(SOON, || async { rig.rows(confirmed).await == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_items_code_is_neither_blank_nor_hides_anything() {
    let rig = Rig::start().await;
    for code in ["  ", "A\nB", "A\u{7}", "\u{85}"] {
        let mut request = self_pay_order("tok_visa");
        request.lines = vec![line(code, 10)];
        let refused = rig.place(request).await.unwrap_err();
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
    rig.place(request).await.unwrap();
}

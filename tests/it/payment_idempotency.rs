//! Repeated requests have one effect and one answer, and other facilities see nothing.

use proto::payment::v1::{GetPaymentRequest, ListPaymentsRequest, PaymentState, RefundPaymentRequest};
use tests::Service;
use tonic::Code;
use uuid::Uuid;

use crate::payment_fixture::{Fixture, Statement, aed, authorize, clients, fresh, minor, reason, replayed};

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_identical_calls_have_one_effect_and_equal_answers() {
    let fixture = Fixture::start().await;
    for card in ["tok_visa", "tok_slow", "tok_decline"] {
        let order = Uuid::new_v4();
        let request = authorize(order, 3_000, card);
        let calls = (0..32).map(|_| {
            let (mut payments, request) = (fixture.payments.clone(), request.clone());
            async move { payments.authorize_payment(request).await.unwrap() }
        });
        let answers = futures_util::future::join_all(calls).await;
        assert_eq!(
            answers.iter().filter(|answer| !replayed(answer)).count(),
            1,
            "{card}"
        );
        let payments: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.into_inner().payment.unwrap())
            .collect();
        assert!(
            payments.iter().all(|payment| *payment == payments[0]),
            "{card}: {payments:?}"
        );
        let requests = format!(
            "select sum(requests)::bigint from sandbox.card_authorization where merchant_reference = '{order}:SHARE'"
        );
        assert_eq!(
            fixture.stack.database(Service::Payment).count(&requests).await,
            1,
            "{card}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_with_another_body_is_refused() {
    let fixture = Fixture::start().await;
    let first = authorize(Uuid::new_v4(), 3_000, "tok_visa");
    fixture.send(first.clone()).await.unwrap();
    let mut other = first.clone();
    other.amount = Some(aed(3_001));
    let refused = fixture.send(other).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED")
    );
    // A failed request is not stored: its id can be used again for the corrected request.
    let mut nothing = authorize(Uuid::new_v4(), 0, "tok_visa");
    assert_eq!(
        fixture.send(nothing.clone()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    nothing.amount = Some(aed(5));
    assert_eq!(
        fixture.send(nothing).await.unwrap().state(),
        PaymentState::Authorized
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_void_before_its_authorization_refuses_the_authorization() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let tombstone = fixture.void(order).await.unwrap();
    assert_eq!(
        (tombstone.state(), tombstone.amount),
        (PaymentState::Voided, None)
    );
    let late = fixture.authorize(order, 3_000, "tok_visa").await.unwrap_err();
    assert_eq!(
        (late.code(), reason(&late).as_str()),
        (Code::FailedPrecondition, "PAYMENT_VOIDED")
    );
    assert_eq!(fixture.void(order).await.unwrap().id, tombstone.id);
    assert_eq!(fixture.statement(order).await.holds, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_refunds_add_up_and_never_pass_what_was_captured() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 1_000, "tok_visa").await.unwrap();
    let payment = fixture.capture(&payment, None).await.unwrap();
    let refund = RefundPaymentRequest {
        request_id: fresh(),
        id: payment.id.clone(),
        amount: Some(aed(300)),
        reason: "one line".to_owned(),
    };
    for repetition in [false, true] {
        let answer = fixture
            .payments
            .clone()
            .refund_payment(refund.clone())
            .await
            .unwrap();
        assert_eq!(replayed(&answer), repetition);
        assert_eq!(minor(answer.into_inner().payment.unwrap().refunded.as_ref()), 300);
    }
    let beyond = fixture.refund(&payment, Some(701)).await.unwrap_err();
    assert_eq!(
        (beyond.code(), reason(&beyond).as_str()),
        (Code::FailedPrecondition, "REFUND_EXCEEDS_CAPTURED")
    );
    let rest = fixture.refund(&payment, None).await.unwrap();
    assert_eq!((minor(rest.refunded.as_ref()), rest.refunds.len()), (1_000, 2));
    assert_eq!(
        reason(&fixture.refund(&payment, None).await.unwrap_err()),
        "REFUND_EXCEEDS_CAPTURED"
    );
    let statement = Statement {
        holds: 1,
        charges: 1,
        charged: 1_000,
        given_back: 1_000,
    };
    assert_eq!(fixture.statement(order).await, statement);
    assert!(
        fixture
            .balances(order)
            .await
            .iter()
            .all(|(_, balance)| *balance == 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_refunds_never_exceed_what_was_captured() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 1_000, "tok_visa").await.unwrap();
    let payment = fixture.capture(&payment, None).await.unwrap();
    let refunds = (0..16).map(|_| fixture.refund(&payment, Some(400)));
    let answers = futures_util::future::join_all(refunds).await;
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..=2).contains(&done), "{done}");
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(
            ["PAYMENT_BUSY", "REFUND_EXCEEDS_CAPTURED"].contains(&reason(refused).as_str()),
            "{refused}"
        );
    }
    assert_eq!(
        fixture.statement(order).await.given_back,
        400 * i64::try_from(done).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_facility_finds_nothing_through_the_api_and_through_sql() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 1_000, "tok_visa").await.unwrap();
    let payment = fixture.capture(&payment, None).await.unwrap();
    fixture.refund(&payment, Some(1)).await.unwrap();

    let (mut strangers, _) = clients(&fixture.stack, "elsewhere");
    let get = GetPaymentRequest {
        id: payment.id.clone(),
        ..GetPaymentRequest::default()
    };
    assert_eq!(
        strangers.get_payment(get).await.unwrap_err().code(),
        Code::NotFound
    );
    let refund = RefundPaymentRequest {
        request_id: fresh(),
        id: payment.id,
        ..RefundPaymentRequest::default()
    };
    assert_eq!(
        strangers.refund_payment(refund).await.unwrap_err().code(),
        Code::NotFound
    );
    let list = strangers
        .list_payments(ListPaymentsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(list.payments.is_empty());

    let app = fixture.stack.database(Service::Payment).app().await;
    for table in [
        "payment",
        "operation",
        "refund",
        "ledger_transaction",
        "ledger_entry",
    ] {
        for (facility, visible) in [(None, false), (Some("elsewhere"), false), (Some("al-noor"), true)] {
            let mut tx = app.begin().await.unwrap();
            if let Some(facility) = facility {
                sqlx::query("select set_config('weft.facility', $1, true)")
                    .bind(facility)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
            }
            let count = sqlx::AssertSqlSafe(format!("select count(*) from payment.{table}"));
            let seen: i64 = sqlx::query_scalar(count).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(seen > 0, visible, "{table} as {facility:?}");
        }
    }
}

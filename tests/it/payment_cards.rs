//! Every card of the sandbox, from authorization to its end.

use proto::payment::v1::{ListPaymentsRequest, PaymentPurpose, PaymentState, RefundState};
use tests::{Options, Service};
use tonic::Code;
use uuid::Uuid;

use crate::payment_fixture::{Fixture, Statement, minor, reason};

#[tokio::test(flavor = "multi_thread")]
async fn approved_cards_are_captured_and_the_holder_is_charged_once() {
    let fixture = Fixture::start().await;
    for card in ["tok_visa", "tok_mastercard", "tok_amex", "tok_slow"] {
        let order = Uuid::new_v4();
        let payment = fixture.authorize(order, 12_050, card).await.unwrap();
        assert_eq!(payment.state(), PaymentState::Authorized, "{card}");
        assert_eq!(minor(payment.authorized.as_ref()), 12_050);
        assert!(payment.expire_time.is_some() && !payment.processor_reference.is_empty());
        let payment = fixture.capture(&payment, None).await.unwrap();
        assert_eq!(
            (payment.state(), minor(payment.captured.as_ref())),
            (PaymentState::Captured, 12_050)
        );
        let statement = Statement {
            holds: 1,
            charges: 1,
            charged: 12_050,
            given_back: 0,
        };
        assert_eq!(fixture.statement(order).await, statement, "{card}");
        assert_eq!(fixture.events(&payment).await, ["Authorized", "Captured"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn declined_cards_return_the_reason_and_another_method_may_be_tried() {
    let fixture = Fixture::start().await;
    for (card, why) in [
        ("tok_decline", "CARD_DECLINED"),
        ("tok_insufficient_funds", "INSUFFICIENT_FUNDS"),
        ("tok_expired_card", "EXPIRED_CARD"),
        ("tok_stolen_card", "STOLEN_CARD"),
        ("tok_incorrect_cvc", "INCORRECT_CVC"),
        ("tok_nobody_knows", "INVALID_PAYMENT_METHOD"),
    ] {
        let order = Uuid::new_v4();
        let declined = fixture.authorize(order, 500, card).await.unwrap();
        assert_eq!(
            (declined.state(), declined.decline_reason.as_str()),
            (PaymentState::Declined, why)
        );
        assert_eq!(
            reason(&fixture.authorize(order, 501, "tok_visa").await.unwrap_err()),
            "AMOUNT_MISMATCH"
        );
        let paid = fixture.authorize(order, 500, "tok_visa").await.unwrap();
        assert_eq!((&paid.id, paid.state()), (&declined.id, PaymentState::Authorized));
        assert_eq!(fixture.statement(order).await.holds, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_after_the_authorization_leaves_the_payment_where_it_was() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 700, "tok_capture_fails").await.unwrap();
    let refused = fixture.capture(&payment, None).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "CAPTURE_REFUSED")
    );
    assert_eq!(
        fixture.get(order, PaymentPurpose::Share).await.unwrap().state(),
        PaymentState::Authorized
    );
    assert_eq!(fixture.balances(order).await, []);

    let order = Uuid::new_v4();
    fixture.authorize(order, 700, "tok_void_fails").await.unwrap();
    assert_eq!(reason(&fixture.void(order).await.unwrap_err()), "VOID_REFUSED");
    assert_eq!(
        fixture.get(order, PaymentPurpose::Share).await.unwrap().state(),
        PaymentState::Authorized
    );

    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 700, "tok_refund_fails").await.unwrap();
    let payment = fixture.capture(&payment, None).await.unwrap();
    assert_eq!(
        reason(&fixture.refund(&payment, None).await.unwrap_err()),
        "REFUND_REFUSED"
    );
    let payment = fixture.get(order, PaymentPurpose::Share).await.unwrap();
    assert_eq!(minor(payment.refunded.as_ref()), 0);
    assert_eq!(payment.refunds[0].state(), RefundState::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_states_and_amounts_are_refused_with_precise_reasons() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 900, "tok_visa").await.unwrap();
    assert_eq!(
        reason(&fixture.refund(&payment, None).await.unwrap_err()),
        "PAYMENT_NOT_CAPTURED"
    );
    assert_eq!(
        reason(&fixture.capture(&payment, Some(901)).await.unwrap_err()),
        "CAPTURE_EXCEEDS_AUTHORIZED"
    );
    let again = fixture.authorize(order, 900, "tok_visa").await.unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::AlreadyExists, "PAYMENT_EXISTS")
    );
    for amount in [0, -5] {
        assert_eq!(
            fixture.capture(&payment, Some(amount)).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    let payment = fixture.capture(&payment, Some(400)).await.unwrap();
    assert_eq!(minor(payment.captured.as_ref()), 400);
    assert_eq!(
        reason(&fixture.capture(&payment, None).await.unwrap_err()),
        "PAYMENT_CAPTURED"
    );
    assert_eq!(
        reason(&fixture.void(order).await.unwrap_err()),
        "PAYMENT_CAPTURED"
    );

    let order = Uuid::new_v4();
    let created = fixture.authorize(order, 900, "").await.unwrap();
    assert_eq!(created.state(), PaymentState::Created);
    assert_eq!(
        reason(&fixture.capture(&created, None).await.unwrap_err()),
        "PAYMENT_NOT_AUTHORIZED"
    );
    assert_eq!(
        fixture.authorize(order, 900, "").await.unwrap_err().code(),
        Code::AlreadyExists
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uncaptured_authorization_expires() {
    let options = Options::default()
        .set(Service::Payment, "authorization.lifetime_s", "1")
        .set(Service::Payment, "authorization.sweep_ms", "50");
    let fixture = Fixture::with(options).await;
    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 900, "tok_visa").await.unwrap();
    let expired = fixture
        .becomes(order, PaymentPurpose::Share, PaymentState::Expired)
        .await;
    assert_eq!(
        reason(&fixture.capture(&payment, None).await.unwrap_err()),
        "PAYMENT_EXPIRED"
    );
    assert_eq!(fixture.statement(order).await.holds, 0);
    assert_eq!(fixture.events(&expired).await, ["Authorized", "Voided"]);
    assert_eq!(fixture.void(order).await.unwrap().state(), PaymentState::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_payments_hold_each_payment_once_and_newest_first() {
    let fixture = Fixture::start().await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        let order = Uuid::new_v4();
        fixture.authorize(order, 100, "tok_visa").await.unwrap();
        orders.insert(0, order.to_string());
    }
    let mut listed = Vec::new();
    let mut request = ListPaymentsRequest {
        page_size: 2,
        ..ListPaymentsRequest::default()
    };
    loop {
        let page = fixture
            .payments
            .clone()
            .list_payments(request.clone())
            .await
            .unwrap()
            .into_inner();
        listed.extend(page.payments.into_iter().map(|payment| payment.order_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(listed, orders);
    request.page_token = "forged".to_owned();
    assert_eq!(
        fixture
            .payments
            .clone()
            .list_payments(request)
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
}

//! The processor does not answer, or the process dies: the outcome is queried, and no card is charged twice.

use std::time::Duration;

use proto::payment::v1::{PaymentPurpose, PaymentState, RefundState};
use tests::{Durability, Options, Service, eventually};
use tonic::{Code, Request};
use uuid::Uuid;

use crate::payment_fixture::{Fixture, SOON, Statement, authorize, minor, reason};

const SHARE: PaymentPurpose = PaymentPurpose::Share;

#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_that_did_charge_ends_authorized_with_one_hold() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let request = authorize(order, 4_200, "tok_timeout_charged");
    assert_eq!(
        fixture.send(request.clone()).await.unwrap().state(),
        PaymentState::Unknown
    );
    let payment = fixture.becomes(order, SHARE, PaymentState::Authorized).await;
    // The repeated request has its answer now, without another query.
    assert_eq!(fixture.send(request).await.unwrap(), payment);
    assert_eq!(fixture.statement(order).await.holds, 1);
    assert_eq!(sent(&fixture, order).await, 1);
    assert_eq!(fixture.events(&payment).await, ["OutcomeUnknown", "Authorized"]);
    assert_eq!(
        fixture.capture(&payment, None).await.unwrap().state(),
        PaymentState::Captured
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_that_did_not_charge_ends_declined_and_is_never_sent_again() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let unknown = fixture
        .authorize(order, 4_200, "tok_timeout_not_charged")
        .await
        .unwrap();
    assert_eq!(unknown.state(), PaymentState::Unknown);
    let payment = fixture.becomes(order, SHARE, PaymentState::Declined).await;
    assert_eq!(payment.decline_reason, "PROCESSOR_TIMEOUT");
    assert_eq!(fixture.statement(order).await.holds, 0);
    assert_eq!(sent(&fixture, order).await, 1);
    assert_eq!(fixture.events(&payment).await, ["OutcomeUnknown", "Declined"]);
    assert_eq!(
        fixture.authorize(order, 4_200, "tok_visa").await.unwrap().state(),
        PaymentState::Authorized
    );
    assert_eq!(fixture.statement(order).await.holds, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_short_deadline_is_answered_in_time_and_the_payment_continues() {
    let options = Options::default()
        .set(Service::Payment, "sandbox.slow_ms", "3000")
        .set(Service::Payment, "processor.timeout_ms", "5000");
    let fixture = Fixture::with(options).await;
    // A request with too little time for its first transaction is not begun: connections and statements are
    // prepared before.
    fixture.authorize(Uuid::new_v4(), 100, "tok_visa").await.unwrap();
    let order = Uuid::new_v4();
    let mut request = Request::new(authorize(order, 4_200, "tok_slow"));
    request.set_timeout(Duration::from_millis(1_000));
    let begun = std::time::Instant::now();
    let answer = fixture.payments.clone().authorize_payment(request).await;
    // Well before the processor has answered.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    match answer {
        Ok(answer) => assert_eq!(
            answer.into_inner().payment.unwrap().state(),
            PaymentState::Unknown
        ),
        Err(status) => assert!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{status}"
        ),
    }
    fixture.becomes(order, SHARE, PaymentState::Authorized).await;
    assert_eq!(fixture.statement(order).await.holds, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_and_refunds_without_an_answer_are_resolved() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let payment = fixture
        .authorize(order, 800, "tok_capture_timeout")
        .await
        .unwrap();
    let silent = fixture.capture(&payment, None).await.unwrap_err();
    assert_eq!(
        (silent.code(), reason(&silent).as_str()),
        (Code::Unavailable, "PROCESSOR_TIMEOUT")
    );
    let payment = fixture.becomes(order, SHARE, PaymentState::Captured).await;
    let statement = Statement {
        holds: 1,
        charges: 1,
        charged: 800,
        given_back: 0,
    };
    assert_eq!(fixture.statement(order).await, statement);
    assert_eq!(fixture.events(&payment).await, ["Authorized", "Captured"]);

    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 800, "tok_refund_timeout").await.unwrap();
    let payment = fixture.capture(&payment, None).await.unwrap();
    assert_eq!(
        fixture.refund(&payment, Some(300)).await.unwrap_err().code(),
        Code::Unavailable
    );
    let refunded = eventually(SOON, || async {
        let payment = fixture.get(order, SHARE).await.unwrap();
        (minor(payment.refunded.as_ref()) == 300).then_some(payment)
    })
    .await;
    assert_eq!(refunded.refunds[0].state(), RefundState::Succeeded);
    assert_eq!(fixture.statement(order).await.given_back, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_void_overtakes_an_authorization_of_unknown_outcome() {
    let options = Options::default().set(Service::Payment, "processor.ask_again_ms", "5000");
    let fixture = Fixture::with(options).await;
    for card in ["tok_timeout_charged", "tok_timeout_not_charged"] {
        let order = Uuid::new_v4();
        assert_eq!(
            fixture.authorize(order, 800, card).await.unwrap().state(),
            PaymentState::Unknown
        );
        assert_eq!(
            fixture.void(order).await.unwrap().state(),
            PaymentState::Voided,
            "{card}"
        );
        assert_eq!(fixture.statement(order).await.holds, 0, "{card}");
        assert_eq!(
            reason(&fixture.authorize(order, 800, "tok_visa").await.unwrap_err()),
            "PAYMENT_VOIDED"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_killed_before_the_processor_was_reached_continues_after_the_restart() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let request = authorize(order, 1_500, "tok_visa");
    // The card network is blocked, so that the kill falls between the first transaction and the charge.
    let pool = fixture.stack.database(Service::Payment).superuser().await;
    let mut network = pool.begin().await.unwrap();
    sqlx::query("lock table sandbox.card_authorization in access exclusive mode")
        .execute(&mut *network)
        .await
        .unwrap();
    let calling = tokio::spawn({
        let (mut payments, request) = (fixture.payments.clone(), request.clone());
        async move { payments.authorize_payment(request).await }
    });
    let begun =
        format!("select count(*) from payment.payment where order_id = '{order}' and state = 'AUTHORIZING'");
    eventually(SOON, || async {
        fixture.stack.database(Service::Payment).count(&begun).await == 1
    })
    .await;
    fixture.stack.kill9(Service::Payment);
    assert!(calling.await.unwrap().is_err());
    network.rollback().await.unwrap();

    fixture.stack.restart(Service::Payment).await;
    let again = eventually(SOON, || fixture.send(request.clone())).await;
    assert_eq!(again.state(), PaymentState::Authorized);
    assert_eq!(fixture.statement(order).await.holds, 1);
    assert_eq!(fixture.events(&again).await, ["Authorized"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_charge_and_before_its_booking_it_is_booked_after_the_restart() {
    let options = Options::default().set(Service::Payment, "processor.timeout_ms", "4000");
    let fixture = Fixture::with(options).await;
    let order = Uuid::new_v4();
    let payment = fixture
        .authorize(order, 1_500, "tok_capture_timeout")
        .await
        .unwrap();
    let calling = tokio::spawn({
        let (mut payments, id) = (fixture.payments.clone(), payment.id.clone());
        let request = proto::payment::v1::CapturePaymentRequest {
            request_id: crate::payment_fixture::fresh(),
            id,
            amount: None,
        };
        async move { payments.capture_payment(request).await }
    });
    let database = fixture.stack.database(Service::Payment);
    let charged = "select count(*) from sandbox.card_operation where kind = 'CAPTURE'";
    eventually(SOON, || async { database.count(charged).await == 1 }).await;
    fixture.stack.kill9(Service::Payment);
    assert!(calling.await.unwrap().is_err());
    assert_eq!(
        database.count("select count(*) from payment.ledger_entry").await,
        0
    );

    fixture.stack.restart(Service::Payment).await;
    let payment = fixture.becomes(order, SHARE, PaymentState::Captured).await;
    let statement = Statement {
        holds: 1,
        charges: 1,
        charged: 1_500,
        given_back: 0,
    };
    assert_eq!(fixture.statement(order).await, statement);
    assert_eq!(fixture.events(&payment).await, ["Authorized", "Captured"]);
    assert_eq!(
        database
            .count("select count(*) from payment.ledger_transaction")
            .await,
        1
    );
}

/// Number of authorizations for this order that were sent to the card network.
async fn sent(fixture: &Fixture, order: Uuid) -> i64 {
    let query = format!(
        "select sum(requests)::bigint from sandbox.card_authorization where merchant_reference = '{order}:SHARE'"
    );
    fixture.stack.database(Service::Payment).count(&query).await
}

/// If the network could not be reached, nothing was sent, and nothing has to be queried.
#[tokio::test(flavor = "multi_thread")]
async fn a_card_network_that_cannot_be_reached_in_time_declines_no_payment() {
    let options = Options::default()
        .set(Service::Payment, "sandbox.max_connections", "1")
        .set(Service::Payment, "processor.timeout_ms", "20000");
    let fixture = Fixture::with(options).await;
    // Connections and statements are prepared before: the answer has to be written in little time.
    fixture.authorize(Uuid::new_v4(), 100, "tok_visa").await.unwrap();
    // The only connection to the network is used by a call that hangs.
    let superuser = fixture.stack.database(Service::Payment).superuser().await;
    let mut held = superuser.begin().await.unwrap();
    sqlx::query("lock table sandbox.card_authorization in access exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    let hanging = {
        let (mut payments, request) = (
            fixture.payments.clone(),
            authorize(Uuid::new_v4(), 100, "tok_visa"),
        );
        tokio::spawn(async move { payments.authorize_payment(request).await })
    };
    let waiting = "select count(*) from pg_stat_activity where application_name = 'sandbox card network' \
                   and wait_event_type = 'Lock' and datname = current_database()";
    eventually(SOON, || async {
        fixture.stack.database(Service::Payment).count(waiting).await == 1
    })
    .await;

    let order = Uuid::new_v4();
    let asked = authorize(order, 4_200, "tok_visa");
    let mut request = Request::new(asked.clone());
    request.set_timeout(Duration::from_millis(1_500));
    let refused = fixture
        .payments
        .clone()
        .authorize_payment(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(reason(&refused), "PROCESSOR_UNREACHABLE");

    held.rollback().await.unwrap();
    hanging.await.unwrap().unwrap();
    let payment = fixture.becomes(order, SHARE, PaymentState::Authorized).await;
    assert_eq!(fixture.events(&payment).await, ["Authorized"]);
    assert_eq!(fixture.statement(order).await.holds, 1);
    assert_eq!(fixture.send(asked).await.unwrap().id, payment.id);
}

/// The process that works on the operation is alive: after a database outage it should not wait for its lease to
/// expire.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_interrupted_by_a_database_outage_is_resumed_after_it() {
    let options = Options::default()
        .own_postgres(Durability::Durable)
        .set(Service::Payment, "processor.timeout_ms", "60000")
        .set(Service::Payment, "sandbox.slow_ms", "1000");
    let fixture = Fixture::with(options).await;
    let order = Uuid::new_v4();
    let calling = tokio::spawn({
        let (mut payments, request) = (fixture.payments.clone(), authorize(order, 4_200, "tok_slow"));
        async move { payments.authorize_payment(request).await }
    });
    let database = fixture.stack.database(Service::Payment);
    let under_way = "select count(*) from sandbox.card_authorization";
    eventually(SOON, || async { database.count(under_way).await == 1 }).await;
    fixture.stack.postgres().kill9();
    assert!(calling.await.unwrap().is_err());
    fixture.stack.postgres().restart().await;
    let authorized = "select count(*) from payment.payment where state = 'AUTHORIZED'";
    eventually(SOON, || async { database.count(authorized).await == 1 }).await;
    assert_eq!(fixture.statement(order).await.holds, 1);
    assert_eq!(sent(&fixture, order).await, 1);
}

//! Kills and stops of the payment service while many calls share its transactions.

use futures_util::future::join_all;
use proto::payment::v1::{CapturePaymentRequest, Payment, PaymentState};
use tests::{Service, eventually};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    payment_batches::{count, fixture, order, requests, send_all},
    payment_fixture::{SOON, aed, fresh},
};

#[tokio::test(flavor = "multi_thread")]
async fn many_payments_in_flight_at_a_kill_are_each_resumed_and_charged_once() {
    let fixture = fixture().await;
    let requests = requests(48);
    // The card network is blocked, so that all are between their first transaction and the charge.
    let pool = fixture.stack.database(Service::Payment).superuser().await;
    let mut network = pool.begin().await.unwrap();
    sqlx::query("lock table sandbox.card_authorization in access exclusive mode")
        .execute(&mut *network)
        .await
        .unwrap();
    let calls = join_all(requests.iter().map(|request| {
        let (mut payments, request) = (fixture.payments.clone(), request.clone());
        async move { payments.authorize_payment(request).await }
    }));
    let calls = tokio::spawn(calls);
    let begun = "select count(*) from payment.payment where state = 'AUTHORIZING'";
    eventually(SOON, || async { count(&fixture, begun).await == 48 }).await;
    fixture.stack.kill9(Service::Payment);
    assert!(calls.await.unwrap().iter().all(Result::is_err));
    network.rollback().await.unwrap();

    fixture.stack.restart(Service::Payment).await;
    for request in &requests {
        let payment = eventually(SOON, || fixture.send(request.clone())).await;
        assert_eq!(payment.state(), PaymentState::Authorized);
        assert_eq!(fixture.statement(order(request)).await.holds, 1);
        assert_eq!(fixture.events(&payment).await, ["Authorized"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_captures_killed_at_any_point_are_each_booked_once() {
    let fixture = fixture().await;
    let payments: Vec<Payment> = send_all(&fixture, &requests(48))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let captures: Vec<CapturePaymentRequest> = payments
        .iter()
        .map(|payment| CapturePaymentRequest {
            request_id: fresh(),
            id: payment.id.clone(),
            amount: Some(aed(600)),
        })
        .collect();
    let calls = join_all(captures.iter().map(|request| {
        let (mut payments, request) = (fixture.payments.clone(), request.clone());
        async move { payments.capture_payment(request).await.is_ok() }
    }));
    let calls = tokio::spawn(calls);
    // By then some have been executed, some have been answered, and some have not begun.
    let charged = "select count(*) from sandbox.card_operation";
    eventually(SOON, || async { count(&fixture, charged).await > 0 }).await;
    fixture.stack.kill9(Service::Payment);
    calls.await.unwrap();

    fixture.stack.restart(Service::Payment).await;
    for request in &captures {
        let captured = eventually(SOON, || async {
            let answer = fixture.payments.clone().capture_payment(request.clone()).await;
            answer.map(|answer| answer.into_inner().payment.unwrap())
        })
        .await;
        assert_eq!(captured.state(), PaymentState::Captured);
        assert_eq!(fixture.events(&captured).await, ["Authorized", "Captured"]);
        assert_eq!(
            fixture
                .statement(captured.order_id.parse().unwrap())
                .await
                .charged,
            600
        );
    }
    assert_eq!(
        count(&fixture, "select count(*) from payment.ledger_transaction").await,
        48
    );
    assert_eq!(
        count(
            &fixture,
            "select count(*) from payment.operation where state in ('RUNNING', 'UNKNOWN')"
        )
        .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_all_queued_calls() {
    let fixture = fixture().await;
    let requests = requests(130);
    let pool = fixture.stack.database(Service::Payment).superuser().await;
    let mut held = pool.begin().await.unwrap();
    sqlx::query("lock table payment.payment in access exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    let calls = join_all(requests.iter().map(|request| {
        let (mut payments, request) = (fixture.payments.clone(), request.clone());
        async move { payments.authorize_payment(request).await }
    }));
    let calls = tokio::spawn(calls);
    // A second transaction begins only when a whole batch waits behind the first.
    let inserting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
                     and datname = current_database() and query like 'insert into payment.payment%'";
    eventually(SOON, || async { count(&fixture, inserting).await == 2 }).await;
    let stopped = async {
        let released = async {
            eventually(SOON, || async {
                let serves = fixture.stack.health(Service::Payment, "readiness").await;
                !matches!(serves, Ok(ServingStatus::Serving))
            })
            .await;
            held.rollback().await.unwrap();
        };
        tokio::join!(fixture.stack.stop(Service::Payment), released).0
    };
    let (answers, status) = tokio::join!(calls, stopped);
    assert!(
        status.success(),
        "{status}\n{}",
        fixture.stack.log(Service::Payment)
    );
    let answered = answers.unwrap().iter().filter(|answer| answer.is_ok()).count();
    assert!(answered >= 65, "{answered}");

    fixture.stack.restart(Service::Payment).await;
    for request in &requests {
        let payment = eventually(SOON, || fixture.send(request.clone())).await;
        assert_eq!(payment.state(), PaymentState::Authorized);
        assert_eq!(fixture.events(&payment).await, ["Authorized"]);
        assert_eq!(fixture.statement(order(request)).await.holds, 1);
    }
}

//! The audit trail of a service.

use std::time::Duration;

use proto::payment::v1::{PaymentPurpose, VoidPaymentRequest, payment_service_client::PaymentServiceClient};
use tests::{Durability, Options, Service, Stack, eventually};
use tonic::Code;

const REQUEST: &str = "6f1c9a4e-2d1b-4c55-9a65-0b1f6d1f8a11";

const SOON: Duration = Duration::from_secs(30);

type Row = (String, String, String, Option<String>, String);

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_an_audited_method_leaves_a_row_for_any_outcome() {
    let stack = Stack::with(Options::default().only(&[Service::Payment])).await;
    let request = VoidPaymentRequest {
        request_id: REQUEST.to_owned(),
        order_id: REQUEST.to_owned(),
        purpose: PaymentPurpose::Share.into(),
        ..VoidPaymentRequest::default()
    };
    let call = async |facility: &str, role: &str, request: &VoidPaymentRequest| {
        let token = stack.token(facility, &[role]);
        let mut client = PaymentServiceClient::new(stack.connect(Service::Payment, &token));
        client
            .void_payment(request.clone())
            .await
            .map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let nameless = VoidPaymentRequest {
        request_id: "7".to_owned(),
        ..request.clone()
    };
    assert_eq!(call("F1", "viewer", &request).await, Code::PermissionDenied);
    assert_eq!(call("F2", "cashier", &nameless).await, Code::InvalidArgument);
    // A void before its payment is recorded.
    assert_eq!(call("F1", "cashier", &request).await, Code::Ok);

    let pool = stack.database(Service::Payment).superuser().await;
    let rows = eventually(Duration::from_secs(5), || async {
        let rows: Vec<Row> = sqlx::query_as(
            "select facility, subject, method, request_id, status from chassis.audit
             where status <> 'STARTED' order by at",
        )
        .fetch_all(&pool)
        .await
        .unwrap();
        (rows.len() == 3).then_some(rows)
    })
    .await;
    let method = "payment.v1.PaymentService/VoidPayment";
    let row = |facility: &str, request_id: Option<&str>, status: &str| -> Row {
        let request_id = request_id.map(str::to_owned);
        (
            facility.to_owned(),
            "tester".to_owned(),
            method.to_owned(),
            request_id,
            status.to_owned(),
        )
    };
    assert_eq!(rows[0], row("F1", None, "PERMISSION_DENIED"));
    assert_eq!(rows[1], row("F2", Some("7"), "INVALID_ARGUMENT"));
    assert_eq!(rows[2], row("F1", Some(REQUEST), "OK"));

    // The service's role can neither change nor delete what it wrote.
    let app = stack.database(Service::Payment).app().await;
    for statement in [
        "delete from chassis.audit",
        "update chassis.audit set subject = 'other'",
        "update chassis.audit set status = 'OK' where status = 'STARTED'",
    ] {
        let refused = sqlx::query(statement).execute(&app).await.unwrap_err();
        assert_eq!(
            refused.as_database_error().unwrap().code().unwrap(),
            "42501",
            "{statement}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_record_that_the_database_refuses_delays_no_other() {
    let stack = Stack::with(Options::default().only(&[Service::Payment])).await;
    let owner = stack.database(Service::Payment).owner().await;
    sqlx::query("alter table chassis.audit add constraint not_f9 check (facility <> 'F9')")
        .execute(&owner)
        .await
        .unwrap();
    let call = async |facility: &str| {
        let token = stack.token(facility, &["viewer"]);
        let request = VoidPaymentRequest {
            request_id: REQUEST.to_owned(),
            order_id: REQUEST.to_owned(),
            purpose: PaymentPurpose::Share.into(),
            ..VoidPaymentRequest::default()
        };
        let mut client = PaymentServiceClient::new(stack.connect(Service::Payment, &token));
        assert_eq!(
            client.void_payment(request).await.unwrap_err().code(),
            Code::PermissionDenied
        );
    };
    for round in 0..20 {
        let facility = if round % 4 == 1 { "F9" } else { "F1" };
        call(facility).await;
    }
    let database = stack.database(Service::Payment);
    let kept = "select count(*) from chassis.audit where facility = 'F1'";
    eventually(SOON, || async { database.count(kept).await == 15 }).await;
    eventually(SOON, || async {
        stack
            .log(Service::Payment)
            .matches("refuses an audit record")
            .count()
            == 5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_wait_for_a_lock_and_for_an_outage_and_none_is_lost() {
    let stack = Stack::with(
        Options::default()
            .own_postgres(Durability::Fast)
            .only(&[Service::Payment]),
    )
    .await;
    let call = async |role: &str| {
        let token = stack.token("F1", &[role]);
        let request = VoidPaymentRequest {
            request_id: REQUEST.to_owned(),
            order_id: REQUEST.to_owned(),
            purpose: PaymentPurpose::Share.into(),
            ..VoidPaymentRequest::default()
        };
        let mut client = PaymentServiceClient::new(stack.connect(Service::Payment, &token));
        client.void_payment(request).await
    };
    let owner = stack.database(Service::Payment).owner().await;
    let mut locked = owner.begin().await.unwrap();
    sqlx::query("lock table chassis.audit in exclusive mode")
        .execute(&mut *locked)
        .await
        .unwrap();
    for _ in 0..3 {
        call("viewer").await.unwrap_err();
    }
    // Longer than `lock_timeout`, observed in the log and not by time.
    eventually(SOON, || async {
        stack.log(Service::Payment).contains("the audit trail waits")
    })
    .await;
    locked.rollback().await.unwrap();
    let database = stack.database(Service::Payment);
    let rows = "select count(*) from chassis.audit";
    eventually(SOON, || async { database.count(rows).await == 3 }).await;

    stack.postgres().stop().await;
    for _ in 0..3 {
        call("viewer").await.unwrap_err();
    }
    eventually(SOON, || async {
        stack
            .log(Service::Payment)
            .matches("the audit trail waits")
            .count()
            >= 2
    })
    .await;
    stack.postgres().restart().await;
    eventually(SOON, || async { database.count(rows).await == 6 }).await;

    // The record of the last call is written before the process ends.
    call("viewer").await.unwrap_err();
    assert!(stack.stop(Service::Payment).await.success());
    assert_eq!(database.count(rows).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_effect_is_without_its_row_whenever_the_process_is_killed() {
    let stack = Stack::with(Options::default().only(&[Service::Payment])).await;
    let token = stack.token("F1", &["cashier"]);
    let database = stack.database(Service::Payment);
    // Only the transaction of the effect can write a row.
    let owner = database.owner().await;
    sqlx::query("alter function chassis.conclude_audit rename to unreachable")
        .execute(&owner)
        .await
        .unwrap();
    let mut answered = 0;
    for _ in 0..5 {
        let request = VoidPaymentRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            order_id: uuid::Uuid::new_v4().to_string(),
            purpose: PaymentPurpose::Share.into(),
            ..VoidPaymentRequest::default()
        };
        let mut client = PaymentServiceClient::new(stack.connect(Service::Payment, &token));
        client.void_payment(request).await.unwrap();
        answered += 1;
    }
    stack.kill9(Service::Payment);
    let started = "select count(*) from chassis.audit where status = 'STARTED' and subject = 'tester'";
    assert_eq!(database.count(started).await, answered);

    sqlx::query("alter function chassis.unreachable rename to conclude_audit")
        .execute(&owner)
        .await
        .unwrap();
    stack.restart(Service::Payment).await;
    let request = VoidPaymentRequest {
        request_id: REQUEST.to_owned(),
        order_id: REQUEST.to_owned(),
        purpose: PaymentPurpose::Share.into(),
        ..VoidPaymentRequest::default()
    };
    let mut client = PaymentServiceClient::new(stack.connect(Service::Payment, &token));
    for _ in 0..2 {
        client.void_payment(request.clone()).await.unwrap();
    }
    // One row for each call: the one with the effect, and its repetition.
    let rows = format!("select count(*) from chassis.audit where request_id = '{REQUEST}' and status = 'OK'");
    eventually(SOON, || async { database.count(&rows).await == 2 }).await;
    assert_eq!(
        database.count("select count(*) from chassis.audit").await,
        answered + 2
    );
}

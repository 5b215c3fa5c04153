//! Who did what: the audit trail of a service.

use std::time::Duration;

use proto::payment::v1::{PaymentPurpose, VoidPaymentRequest, payment_service_client::PaymentServiceClient};
use tests::{Options, Service, Stack, eventually};
use tonic::Code;

const REQUEST: &str = "6f1c9a4e-2d1b-4c55-9a65-0b1f6d1f8a11";

type Row = (String, String, String, Option<String>, String);

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_an_audited_method_leaves_a_row_whatever_became_of_it() {
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
    // A void that comes before its payment is taken down.
    assert_eq!(call("F1", "cashier", &request).await, Code::Ok);

    let pool = stack.database(Service::Payment).superuser().await;
    let rows = eventually(Duration::from_secs(5), || async {
        let rows: Vec<Row> = sqlx::query_as(
            "select facility, subject, method, request_id, status from chassis.audit order by id",
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

    // The service itself can neither change nor erase what it wrote.
    let app = stack.database(Service::Payment).app().await;
    for statement in [
        "delete from chassis.audit",
        "update chassis.audit set subject = 'nobody'",
    ] {
        let refused = sqlx::query(statement).execute(&app).await.unwrap_err();
        assert_eq!(
            refused.as_database_error().unwrap().code().unwrap(),
            "42501",
            "{statement}"
        );
    }
}

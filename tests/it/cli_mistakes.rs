//! Mistakes that the command line reports at once: another service's address, a missing field, an empty file.

use std::fs;

use serde_json::{Value, json};
use tests::{Service, Stack, workspace_root};

use crate::cli_fixture::{Weft, errors, finished};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_service_address_is_reported_with_the_service_that_answers_there() {
    let stack = Stack::start().await;
    let id = "018f2d5e-0000-7000-8000-000000000001";
    let http = |address: String| format!("http://{address}");
    let order = http(stack.address(Service::Order));
    let claims = http(stack.address(Service::Claims));
    let probe = http(stack.probe_address(Service::Payment));
    for (variable, url, arguments, served, hint) in [
        (
            "WEFT_PAYMENT_URL",
            &order,
            &["payment", "get", id][..],
            "payment.v1.PaymentService",
            "it is the order service",
        ),
        (
            "WEFT_PAYMENT_URL",
            &probe,
            &["ledger", "balance"],
            "payment.v1.LedgerService",
            "is it the probe port of the payment service?",
        ),
        (
            "WEFT_ORDER_URL",
            &claims,
            &["saga", "list"],
            "ops.v1.SagaService",
            "it is the claims service",
        ),
    ] {
        let mut command = stack.weft(&stack.token("shop", &["admin"])).await;
        command.env(variable, url).args(["-o", "json"]).args(arguments);
        let refused = finished(command).await;
        assert_eq!(refused.status.code(), Some(1), "{}", errors(&refused));
        let error: Value = serde_json::from_slice(&refused.stderr).expect("one JSON document");
        let expected = format!("the server at {url} does not serve {served}: {hint}");
        assert_eq!(error["error"]["message"], expected.as_str(), "{error}");
        assert_eq!(error["error"]["code"], "UNIMPLEMENTED", "{error}");
        let next = error["error"]["next"].as_str().unwrap_or_default();
        assert!(next.ends_with(variable), "{next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unrelated_grpc_server_is_reported_as_such() {
    let stack = Stack::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::default())
            .serve_with_incoming(incoming),
    );
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let refused = weft.run(&["payment", "list", "--payment-url", &url]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", errors(&refused));
    let message = format!(
        "the server at {url} does not serve payment.v1.PaymentService: is this the address of another service?"
    );
    assert!(errors(&refused).contains(&message), "{}", errors(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_to_another_services_address_stops_with_the_reason() {
    let stack = Stack::start().await;
    let file = workspace_root().join("docs/examples/eclaimlink/01_submission.xml");
    let mut command = stack.weft(&stack.token("clinic", &["admin"])).await;
    let url = format!("http://{}", stack.address(Service::Payment));
    command.env("WEFT_ORDER_URL", &url);
    command.args(["-o", "json", "order", "import"]).arg(&file);
    let stopped = finished(command).await;
    assert_eq!(stopped.status.code(), Some(1), "{}", errors(&stopped));
    let report: Value = serde_json::from_slice(&stopped.stdout).unwrap();
    let reason = report["remarks"][0]["reason"].as_str().unwrap_or_default();
    let message =
        format!("the server at {url} does not serve order.v1.OrderService: it is the payment service");
    assert!(reason.contains(&message), "{report:#}");
    assert!(
        report["stopped"].is_string() && report["undecided"]["entries"] == 1,
        "{report:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_enum_field_is_named_with_its_possible_values() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "clinic", &["admin"]);
    let money = |units: u32| json!({"currencyCode": "AED", "units": units});
    let claim = json!({
        "claimId": "C-1", "payerId": "TEST-INS-1", "providerId": "TEST-FAC-1", "memberId": "M-1",
        "gross": money(100), "patientShare": money(20), "net": money(80),
        "encounter": {"facilityId": "TEST-FAC-1", "type": 1, "patientId": "P-1", "startTime": "2025-03-05T05:30:00Z"},
        "diagnoses": [{"code": "M54.5"}],
    });
    let file = stack.folder().join("claim.json");
    fs::write(&file, claim.to_string()).unwrap();
    let place =
        "order place --line A:1:100.00 --patient-share 20.00 --payment-method tok_visa --claim claim.json";
    let refused = weft.run(&place.split(' ').collect::<Vec<_>>()).await;
    let message = errors(&refused);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    let line = "- claim.diagnoses[0].type: must be one of DIAGNOSIS_TYPE_PRINCIPAL, DIAGNOSIS_TYPE_SECONDARY";
    assert!(message.contains(line), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_wrong_usage_and_is_named() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "clinic", &["admin"]);
    for (name, content) in [
        ("empty.xml", ""),
        ("blank.xml", " \r\n"),
        ("mark.csv", "\u{feff}\n"),
    ] {
        let file = stack.folder().join(name);
        fs::write(&file, content).unwrap();
        let path = file.display().to_string();
        for command in ["order", "remittance"] {
            let refused = weft.run(&[command, "import", &path]).await;
            let message = errors(&refused);
            assert_eq!(refused.status.code(), Some(2), "{command} {name}: {message}");
            let line = format!("error: {path} is empty: there is nothing to import");
            assert!(message.starts_with(&line), "{command} {name}: {message}");
        }
    }
}

//! The services as seen with a real `grpcurl` and no contract files.

use std::process::{Command, Output};

use tests::{Options, Service, Stack, workspace_root};

fn grpcurl(arguments: &[&str]) -> Output {
    Command::new(workspace_root().join(".tools/bin/grpcurl"))
        .args(["-plaintext", "-max-time", "20"])
        .args(arguments)
        .output()
        .expect("scripts/setup has installed grpcurl")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_details_of_a_refusal_are_readable() {
    let stack = Stack::with(Options::default().only(&[Service::Payment])).await;
    let address = stack.address(Service::Payment);
    let token = stack.token("F1", &["cashier"]);
    let header = format!("authorization: Bearer {}", token.as_str());
    let method = "payment.v1.PaymentService/VoidPayment";
    let refused = grpcurl(&["-H", &header, "-d", r#"{"request_id": "7"}"#, &address, method]);
    let message = String::from_utf8_lossy(&refused.stderr);
    for wanted in [
        "google.rpc.ErrorInfo",
        "\"reason\":\"INVALID_REQUEST\"",
        "fieldViolations",
        "\"field\":\"request_id\"",
    ] {
        assert!(message.contains(wanted), "{wanted} is not in {message}");
    }
    assert!(!message.contains("not recognized"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_listed_is_described_with_its_options() {
    let stack = Stack::with(Options::default().only(&[Service::Payment])).await;
    let address = stack.address(Service::Payment);
    let listed = grpcurl(&[&address, "list"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("payment.v1.PaymentService"), "{listed}");
    for name in listed
        .lines()
        .chain(["mesh.v1.policy", "google.rpc.RetryInfo", "payment.v1.Payment"])
    {
        let described = grpcurl(&[&address, "describe", name]);
        assert!(
            described.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&described.stderr)
        );
    }
    let described = grpcurl(&[&address, "describe", "payment.v1.PaymentService.VoidPayment"]);
    let described = String::from_utf8_lossy(&described.stdout);
    assert!(
        described.contains("mesh.v1.policy)") && described.contains("\"cashier\""),
        "{described}"
    );
}

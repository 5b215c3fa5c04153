//! Permissions of the services' keys, and secrets in the output of the programs.

use std::process::Command;

use proto::{
    order::v1::{ListOrdersRequest, order_service_client::OrderServiceClient},
    payment::v1::{ListPaymentsRequest, payment_service_client::PaymentServiceClient},
};
use tests::{Service, Stack, binaries};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_services_key_signs_no_token_of_an_administrator_or_of_another_service() {
    let stack = Stack::start().await;
    let mut forged = stack.issuer().claims("al-noor", &["admin"]);
    for service in [None, Some("order"), Some("claims")] {
        if let Some(service) = service {
            forged["service"] = service.into();
        }
        let token = stack.issuer().sign_as(Service::Claims, &forged);
        let mut orders = OrderServiceClient::new(stack.connect(Service::Order, &token));
        let mut payments = PaymentServiceClient::new(stack.connect(Service::Payment, &token));
        for refused in [
            orders
                .list_orders(ListOrdersRequest::default())
                .await
                .map(drop)
                .unwrap_err(),
            payments
                .list_payments(ListPaymentsRequest::default())
                .await
                .map(drop)
                .unwrap_err(),
        ] {
            assert_eq!(refused.code(), Code::Unauthenticated, "{service:?}: {refused}");
            assert!(
                refused.message().contains("signs for that service alone"),
                "{refused}"
            );
        }
    }
    let mut person = stack.issuer().claims("al-noor", &["admin"]);
    person["service"] = "order".into();
    let mut claims = OrderServiceClient::new(stack.connect(Service::Order, &stack.issuer().sign(&person)));
    let refused = claims
        .list_orders(ListOrdersRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

/// The names of all settings of a service, from its own list.
fn settings(program: &str) -> Vec<String> {
    let output = Command::new(program).arg("check-config").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let name = |line: &str| {
        let unset = line
            .strip_prefix("# ")
            .and_then(|line| line.strip_suffix(" is not set"));
        unset
            .or_else(|| line.split_once(" = ").map(|(name, _)| name))
            .map(str::to_owned)
    };
    text.lines().filter_map(name).collect()
}

#[tokio::test]
async fn no_secret_is_printed_from_any_setting_in_any_form() {
    const FORMS: [&str; 8] = [
        "postgres://user:MARKER@host:5432/db",
        "postgres://user:se/MARKER@host",
        "postgres://user:se?MARKER#x@host/db?sslmode=disable",
        "postgres://host/db?user=u&password=MARKER&password=MARKER",
        "nats://user:MARKER@host:4222,nats://MARKER@other",
        "https://user:MARKER@idp/jwks?key=MARKER&token=MARKER",
        "static:http://user:MARKER@host:1,http://b:2;zone=x",
        "http://user:a,MARKER@host",
    ];
    for service in Service::ALL {
        let program = binaries::program(service.name()).await;
        let program = program.to_str().unwrap();
        let names = settings(program);
        assert!(names.len() > 60, "{service} lists its settings: {names:?}");
        for form in FORMS {
            for command in ["check-config", "serve"] {
                let mut planted = Command::new(program);
                planted.arg(command);
                for name in &names {
                    planted.arg("--set").arg(format!("{name}={form}"));
                }
                let output = planted.output().unwrap();
                assert!(!output.status.success());
                for text in [output.stdout, output.stderr] {
                    let text = String::from_utf8(text).unwrap();
                    let leak = text.lines().find(|line| line.contains("MARKER"));
                    assert_eq!(leak, None, "{service} {command} {form}");
                }
            }
        }
        // Values that are no URL: a secret, an invalid pair, an unreadable file, the environment.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[database]\nurl = \"postgres://u:MARKER@h\n").unwrap();
        let numbers = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(numbers.path(), "[auth]\npage_token_key = 4711474711\n").unwrap();
        let variable = format!("{}__AUTH__PAGE_TOKEN_KEY", service.name().to_uppercase());
        for arguments in [
            vec!["--set", "auth.page_token_key=MARKER"],
            vec!["--set", "database.url:postgres://u:MARKER@h"],
            vec!["--config", file.path().to_str().unwrap()],
            vec!["--config", numbers.path().to_str().unwrap()],
        ] {
            let mut planted = Command::new(program);
            planted
                .arg("check-config")
                .args(&arguments)
                .env(&variable, "MARKER");
            let output = planted.output().unwrap();
            for text in [output.stdout, output.stderr] {
                let text = String::from_utf8(text).unwrap();
                assert!(
                    !text.contains("MARKER") && !text.contains("4711474711"),
                    "{arguments:?}: {text}"
                );
            }
        }
    }
}

/// The README's example under "Configuration", with the example's settings that have no default.
#[tokio::test]
async fn the_configuration_example_of_the_readme_is_complete() {
    let readme = include_str!("../../README.md");
    let part = readme.split("## Configuration").nth(1).unwrap();
    let toml: String = part
        .lines()
        .skip_while(|line| !line.starts_with("    [auth]"))
        .take_while(|line| line.starts_with("    "))
        .map(|line| format!("{}\n", line.trim_start()))
        .collect();
    assert!(toml.contains("jwks_url"), "{toml}");
    let line = part
        .lines()
        .find(|line| line.starts_with("    ORDER__DATABASE__URL="))
        .unwrap();
    let mut words = line.split_whitespace();
    let (variable, value) = words.next().unwrap().split_once('=').unwrap();
    assert_eq!(words.next(), Some("order"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("order.toml"), toml).unwrap();
    let program = binaries::program("order").await;
    let mut command = Command::new(program);
    command.current_dir(folder.path()).env(variable, value);
    // The same text, except for the connection settings.
    command.args(words.map(|word| if word == "serve" { "check-config" } else { word }));
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

//! `weft up --tls`: every call between the services, and every call to them, under mutual TLS.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tests::{eventually, workspace_root};

use crate::{
    cli_fixture::{errors, finished},
    cli_up_fixture::{LocalSystem, pid},
};

const LONG: Duration = Duration::from_secs(60);
const PLACE: [&str; 8] = [
    "order",
    "place",
    "--line",
    "85123A:6:15.30:HEART",
    "--payment-method",
    "tok_visa",
    "--capture",
    "immediate",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_runs_over_mutual_tls() {
    let system = LocalSystem::new();
    let demo = system.weft(&["demo", "--tls"]).await;
    assert!(demo.status.success(), "{}", errors(&demo));
    let settings = fs::read_to_string(system.path("demo/config/order.toml")).unwrap();
    assert!(settings.contains("[payment.tls]"), "{settings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_refuses_clients_without_a_certificate_and_accepts_renewed_ones() {
    let system = LocalSystem::new();
    let up = system
        .weft(&[
            "up",
            "--detach",
            "--free-ports",
            "--tls",
            "--certificate-ttl",
            "20s",
        ])
        .await;
    assert!(up.status.success(), "{}", errors(&up));
    let first = fs::read(system.path("tls/order.pem")).unwrap();
    let variables: Value =
        serde_json::from_slice(&system.weft(&["--output", "json", "env"]).await.stdout).unwrap();
    let variable = |name: &str| variables[name].as_str().unwrap().to_owned();

    let placed = system.weft(&PLACE).await;
    assert!(placed.status.success(), "{}", errors(&placed));
    let plaintext = format!("http://{}", variable("ORDER"));
    let refused = system
        .weft(&["--order-url", &plaintext, "--timeout", "5s", "order", "list"])
        .await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("UNAVAILABLE"), "{}", errors(&refused));

    let (order, ca) = (variable("ORDER"), variable("CA"));
    let (cert, key) = (variable("CERT"), variable("KEY"));
    let listed = grpcurl(&["-cacert", &ca, "-cert", &cert, "-key", &key, &order, "list"]).await;
    assert!(listed.status.success(), "{}", errors(&listed));
    let nameless = grpcurl(&["-cacert", &ca, &order, "list"]).await;
    assert!(!nameless.status.success());
    let plaintext = grpcurl(&["-plaintext", &order, "list"]).await;
    assert!(!plaintext.status.success());
    let probe = grpcurl(&[
        "-plaintext",
        &variable("ORDER_PROBE"),
        "grpc.health.v1.Health/Check",
    ])
    .await;
    assert!(probe.status.success(), "{}", errors(&probe));

    // The certificates were renewed twice: the first ones have expired, and a process that still used them could
    // not connect.
    let renewed = || fs::read(system.path("tls/order.pem")).unwrap();
    eventually(LONG, || async { renewed() != first }).await;
    let second = renewed();
    eventually(LONG, || async { renewed() != second }).await;
    let before = system.pid("payment").await;
    kill_process(pid(before), Signal::KILL).unwrap();
    eventually(LONG, || async {
        system.pid("payment").await != before && system.status().await["ready"] == true
    })
    .await;
    let placed = system.weft(&PLACE).await;
    assert!(placed.status.success(), "{}", errors(&placed));
    let log = fs::read_to_string(system.path("log/order.log")).unwrap();
    assert!(log.contains("certificates rotated"), "{log}");
    let down = system.weft(&["down"]).await;
    assert!(down.status.success(), "{}", errors(&down));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_tls_options_are_named() {
    let system = LocalSystem::new();
    let remote = ["--token", "t", "--order-url", "https://127.0.0.1:1"];
    for (options, named) in [
        (&[][..], "--ca, --cert and --key"),
        (&["--ca", "ca.pem"][..], "go together"),
        (&["--ca", "a", "--cert", "b", "--key", "c"][..], "cannot be read"),
    ] {
        let arguments = [&remote[..], options, &["order", "list"]].concat();
        let refused = system.weft(&arguments).await;
        assert_eq!(refused.status.code(), Some(2), "{}", errors(&refused));
        assert!(errors(&refused).contains(named), "{}", errors(&refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_options_without_effect_are_refused() {
    let system = LocalSystem::new();
    for option in ["--ca", "--cert", "--key", "--trust-domain"] {
        for addresses in [
            &["--order-url", "http://127.0.0.1:1"][..],
            &[
                "--order-url",
                "https://127.0.0.1:1",
                "--claims-url",
                "http://127.0.0.1:1",
            ],
            &[],
        ] {
            let arguments = [&["--token", "t", option, "x"], addresses, &["order", "list"]].concat();
            let refused = system.weft(&arguments).await;
            assert_eq!(refused.status.code(), Some(2), "{}", errors(&refused));
            let message = errors(&refused);
            let named = format!("{option} is for https:// addresses, and http://127.0.0.1:");
            assert!(message.contains(&named), "{message}");
        }
    }
}

async fn grpcurl(arguments: &[&str]) -> Output {
    let mut command = Command::new(workspace_root().join(".tools/bin/grpcurl"));
    command.args(["-connect-timeout", "5"]).args(arguments);
    finished(command).await
}

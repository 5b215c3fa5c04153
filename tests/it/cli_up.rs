//! `weft up` as a new user runs it: start, kills of single processes, and the state after a kill of the
//! supervisor.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::Value;
use tests::{eventually, workspace_root};

use crate::{
    cli_fixture::{errors, finished},
    cli_up_fixture::{LocalSystem, pid},
};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_local_system_starts_survives_kills_and_stops() {
    let system = LocalSystem::new();

    let up = system.weft(&["up", "--detach", "--free-ports"]).await;
    assert!(up.status.success(), "{}", errors(&up));
    let again = system.weft(&["up"]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(errors(&again).contains("already runs"), "{}", errors(&again));

    let placed = system.weft(&PLACE).await;
    assert!(placed.status.success(), "{}", errors(&placed));
    let variables = json(&system.weft(&["--output", "json", "env"]).await);
    assert!(variables.get("CA").is_none(), "{variables:#}");
    for (name, length) in [("ORDER", 10), ("PAYMENT_PROBE", 10), ("TOKEN", 100)] {
        assert!(variables[name].as_str().unwrap().len() > length, "{variables:#}");
    }

    for name in ["order", "postgresql", "nats"] {
        let before = system.pid(name).await;
        kill_process(pid(before), Signal::KILL).unwrap();
        eventually(LONG, || async {
            system.pid(name).await != before && system.status().await["ready"] == true
        })
        .await;
    }
    let placed = system.weft(&PLACE).await;
    assert!(placed.status.success(), "{}", errors(&placed));

    let supervisor = system.status().await["pid"].as_u64().unwrap();
    let children = system.pids().await;
    kill_process(pid(supervisor), Signal::KILL).unwrap();
    for child in children {
        eventually(LONG, || async { test_kill_process(pid(child)).is_err() }).await;
    }
    assert_eq!(system.weft(&["status"]).await.status.code(), Some(1));

    let up = system.weft(&["up", "--detach", "--free-ports"]).await;
    assert!(up.status.success(), "{}", errors(&up));
    let again = json(&system.weft(&["--output", "json", "env"]).await);
    for address in ["ORDER", "ORDER_PROBE", "PAYMENT", "CLAIMS"] {
        assert_eq!(again[address], variables[address], "{address} has moved");
    }
    let orders = json(&system.weft(&["--output", "json", "order", "list"]).await);
    assert_eq!(orders["orders"].as_array().unwrap().len(), 2);
    let children = system.pids().await;
    let down = system.weft(&["down"]).await;
    assert!(down.status.success(), "{}", errors(&down));
    assert!(
        children
            .into_iter()
            .all(|child| test_kill_process(pid(child)).is_err()),
        "something still runs"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_runs_without_the_checkout() {
    let system = LocalSystem::new();
    let installed = system.install().await;
    let empty = installed.parent().unwrap().join("empty");
    fs::create_dir(&empty).unwrap();
    let tools = workspace_root().join(".tools/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(installed.join("weft"));
    command
        .arg("demo")
        .env_clear()
        .env("PATH", format!("{}:{path}", tools.display()))
        .current_dir(&empty);
    let demo = finished(command).await;
    assert!(demo.status.success(), "{}", errors(&demo));
    let stdout = String::from_utf8_lossy(&demo.stdout);
    assert!(stdout.contains("All figures are as expected"), "{stdout}");
    let unpacked = empty.join(".weft/demo/examples");
    let shipped = workspace_root().join("docs/examples/eclaimlink");
    let files: Vec<_> = fs::read_dir(&unpacked).unwrap().flatten().collect();
    assert_eq!(files.len(), 5);
    for file in files {
        assert_eq!(
            fs::read(file.path()).unwrap(),
            fs::read(shipped.join(file.file_name())).unwrap()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_refusal_and_success_have_their_own_exit_codes() {
    let system = LocalSystem::new();
    assert_eq!(
        system
            .weft(&["order", "list", "--limit", "none"])
            .await
            .status
            .code(),
        Some(2)
    );
    let keyless = system.weft(&["order", "list"]).await;
    assert_eq!(keyless.status.code(), Some(2));
    assert!(errors(&keyless).contains("weft up"), "{}", errors(&keyless));
    let unavailable = system
        .weft(&[
            "--token",
            "t",
            "--order-url",
            "http://127.0.0.1:1",
            "order",
            "list",
        ])
        .await;
    assert_eq!(unavailable.status.code(), Some(1));
    assert!(
        errors(&unavailable).contains("UNAVAILABLE") && errors(&unavailable).contains("next: "),
        "{}",
        errors(&unavailable)
    );
    assert_eq!(
        system.weft(&["mesh", "policy", "PlaceOrder"]).await.status.code(),
        Some(0)
    );
}

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

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", errors(output)))
}

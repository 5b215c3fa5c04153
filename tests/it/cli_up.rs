//! `weft up` as a new user runs it: all processes, their deaths, and what a killed one leaves behind.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tests::{eventually, program};

use crate::cli_rig::{errors, finished};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_system_of_ones_own_starts_survives_deaths_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    // PostgreSQL may run as another user, who must be able to pass.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let home = Home {
        folder: folder.path(),
    };

    let up = home.weft(&["up", "--detach", "--free-ports"]).await;
    assert!(up.status.success(), "{}", errors(&up));
    let again = home.weft(&["up"]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(errors(&again).contains("already runs"), "{}", errors(&again));

    let placed = home.weft(&PLACE).await;
    assert!(placed.status.success(), "{}", errors(&placed));
    let variables = json(&home.weft(&["--output", "json", "env"]).await);
    for (name, length) in [("ORDER", 10), ("PAYMENT_PROBE", 10), ("TOKEN", 100)] {
        assert!(variables[name].as_str().unwrap().len() > length, "{variables:#}");
    }

    for name in ["order", "postgresql", "nats"] {
        let before = home.pid(name).await;
        kill_process(pid(before), Signal::KILL).unwrap();
        eventually(LONG, || async {
            home.pid(name).await != before && home.status().await["ready"] == true
        })
        .await;
    }
    let placed = home.weft(&PLACE).await;
    assert!(placed.status.success(), "{}", errors(&placed));

    let supervisor = home.status().await["pid"].as_u64().unwrap();
    let children = home.pids().await;
    kill_process(pid(supervisor), Signal::KILL).unwrap();
    for child in children {
        eventually(LONG, || async { test_kill_process(pid(child)).is_err() }).await;
    }
    assert_eq!(home.weft(&["status"]).await.status.code(), Some(1));

    let up = home.weft(&["up", "--detach", "--free-ports"]).await;
    assert!(up.status.success(), "{}", errors(&up));
    let orders = json(&home.weft(&["--output", "json", "order", "list"]).await);
    assert_eq!(orders["orders"].as_array().unwrap().len(), 2);
    let children = home.pids().await;
    let down = home.weft(&["down"]).await;
    assert!(down.status.success(), "{}", errors(&down));
    assert!(
        children
            .into_iter()
            .all(|child| test_kill_process(pid(child)).is_err()),
        "something still runs"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_a_refusal_and_a_success_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home {
        folder: folder.path(),
    };
    assert_eq!(
        home.weft(&["order", "list", "--limit", "none"])
            .await
            .status
            .code(),
        Some(2)
    );
    let keyless = home.weft(&["order", "list"]).await;
    assert_eq!(keyless.status.code(), Some(2));
    assert!(errors(&keyless).contains("weft up"), "{}", errors(&keyless));
    let nobody = home
        .weft(&[
            "--token",
            "t",
            "--order-url",
            "http://127.0.0.1:1",
            "order",
            "list",
        ])
        .await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        errors(&nobody).contains("UNAVAILABLE") && errors(&nobody).contains("next: "),
        "{}",
        errors(&nobody)
    );
    assert_eq!(
        home.weft(&["mesh", "policy", "PlaceOrder"]).await.status.code(),
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

struct Home<'a> {
    folder: &'a Path,
}

impl Home<'_> {
    async fn weft(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("weft").await);
        command.args(arguments).env("WEFT_DIR", self.folder.join("weft"));
        finished(command).await
    }

    async fn status(&self) -> Value {
        let output = self.weft(&["--output", "json", "status"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    async fn pids(&self) -> Vec<u64> {
        let status = self.status().await;
        let processes = status["processes"].as_array().unwrap();
        processes
            .iter()
            .filter_map(|process| process["pid"].as_u64())
            .collect()
    }

    /// 0 while it does not run.
    async fn pid(&self, name: &str) -> u64 {
        let status = self.status().await;
        let processes = status["processes"].as_array().cloned().unwrap_or_default();
        let found = processes.into_iter().find(|process| process["name"] == name);
        found.and_then(|process| process["pid"].as_u64()).unwrap_or(0)
    }
}

impl Drop for Home<'_> {
    /// However the test ends, nothing of it goes on.
    fn drop(&mut self) {
        let description = std::fs::read_to_string(self.folder.join("weft/weft.json")).unwrap_or_default();
        let description: Value = serde_json::from_str(&description).unwrap_or_default();
        if let Some(supervisor) = description["pid"].as_u64() {
            let _ = kill_process(pid(supervisor), Signal::TERM);
        }
    }
}

fn pid(number: u64) -> Pid {
    let number = i32::try_from(number).expect("a pid fits");
    Pid::from_raw(number).expect("a process that runs has a pid")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", errors(output)))
}

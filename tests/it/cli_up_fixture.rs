//! A system that `weft up` runs in a folder of the scenario.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tests::program;

use crate::cli_fixture::finished;

/// The folder of a local system.
pub(crate) struct LocalSystem(TempDir);

impl LocalSystem {
    pub(crate) fn new() -> LocalSystem {
        let folder = tempfile::tempdir().unwrap();
        // PostgreSQL may run as another user, who must be able to traverse the folder.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        LocalSystem(folder)
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join("weft").join(inside)
    }

    /// Copies only the programs, as on a machine without the checkout.
    pub(crate) async fn install(&self) -> PathBuf {
        let installed = self.0.path().join("bin");
        fs::create_dir_all(&installed).unwrap();
        for name in ["weft", "order", "payment", "claims"] {
            let (built, copy) = (program(name).await, installed.join(name));
            fs::hard_link(&built, &copy)
                .or_else(|_| fs::copy(&built, &copy).map(drop))
                .unwrap();
        }
        installed
    }

    /// Runs the command line from a folder without other files.
    pub(crate) async fn weft(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("weft").await);
        command
            .args(arguments)
            .env("WEFT_DIR", self.path(""))
            .current_dir(self.0.path());
        finished(command).await
    }

    pub(crate) async fn status(&self) -> Value {
        let output = self.weft(&["--output", "json", "status"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    pub(crate) async fn pids(&self) -> Vec<u64> {
        let status = self.status().await;
        let processes = status["processes"].as_array().unwrap();
        processes
            .iter()
            .filter_map(|process| process["pid"].as_u64())
            .collect()
    }

    /// Its process id, or 0 while it does not run.
    pub(crate) async fn pid(&self, name: &str) -> u64 {
        let status = self.status().await;
        let processes = status["processes"].as_array().cloned().unwrap_or_default();
        let found = processes.into_iter().find(|process| process["name"] == name);
        found.and_then(|process| process["pid"].as_u64()).unwrap_or(0)
    }
}

impl Drop for LocalSystem {
    /// Stops the system, however the test ends.
    fn drop(&mut self) {
        let description = fs::read_to_string(self.path("weft.json")).unwrap_or_default();
        let description: Value = serde_json::from_str(&description).unwrap_or_default();
        if let Some(supervisor) = description["pid"].as_u64() {
            let _ = kill_process(pid(supervisor), Signal::TERM);
        }
    }
}

pub(crate) fn pid(number: u64) -> Pid {
    let number = i32::try_from(number).expect("a pid fits");
    Pid::from_raw(number).expect("a process that runs has a pid")
}

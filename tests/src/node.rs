//! A relay or a consumer in a separate process that a scenario can kill or suspend.

use std::{
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use events::Settings;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{Database, binaries, process::Process, watchdog};

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Publishes the outbox.
    Relay,
    /// Consumes as [`crate::backbone::CONSUMER`] and records effects.
    Consumer,
    /// As `Consumer`, but aborts its process at every event of this version, before the commit.
    AbortsAt(i64),
}

/// A running `backbone-node` process.
#[derive(Debug)]
pub struct Node {
    role: Role,
    database: String,
    settings: String,
    folder: TempDir,
    process: Mutex<Option<Process>>,
}

impl Node {
    /// Starts a process on a database that [`crate::backbone::prepare_database`] has prepared.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub async fn start(role: Role, database: &Database, settings: &Settings) -> Node {
        let folder = tempfile::Builder::new()
            .prefix("weft-node-")
            .tempdir()
            .expect("the temp dir is writable");
        watchdog::remove(folder.path());
        let node = Node {
            role,
            database: database.app_url(),
            settings: serde_json::to_string(settings).expect("settings are plain data"),
            folder,
            process: Mutex::new(None),
        };
        node.restart().await;
        node
    }

    /// Starts or restarts it, killing it first if it runs.
    pub async fn restart(&self) {
        self.kill9();
        let mut command = Command::new(binaries::program("backbone-node").await);
        match self.role {
            Role::Relay => command.arg("relay"),
            Role::Consumer => command.arg("consumer"),
            Role::AbortsAt(version) => command.arg(format!("aborts-at-{version}")),
        };
        command.args([&self.database, &self.settings]);
        let log = self.folder.path().join("node.log");
        let process = Process::spawn("backbone-node", &mut command, &log, "KILL");
        *self.process() = Some(process);
    }

    /// Kills it with SIGKILL, as in a crash.
    pub fn kill9(&self) {
        drop(self.process().take());
    }

    /// Suspends it with SIGSTOP, as if its machine stood still.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes it after [`Node::suspend`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it has exited.
    pub fn ended(&self) -> bool {
        self.process()
            .as_mut()
            .is_none_or(|process| process.ended().is_some())
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.process().as_ref().map(Process::tail).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = self.process().as_mut() {
            process.signal(signal);
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

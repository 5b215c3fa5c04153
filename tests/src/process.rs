//! A child process that writes a log, can be signalled, and never outlives the test.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::watchdog;

/// Number of log lines that are shown when a test fails.
const TAIL: usize = 40;

/// A running child process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`. `final_signal` is the signal with which the watchdog
    /// ends it.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub(crate) fn spawn(name: &str, command: &mut Command, log: &Path, final_signal: &str) -> Process {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log's folder is the test's own");
        let errors = output.try_clone().expect("a file can be shared");
        command.stdout(output).stderr(errors);
        Process::start(name, command, log, final_signal)
    }

    /// Starts `command` with its standard error piped to the caller.
    pub(crate) fn spawn_piped(
        name: &str,
        command: &mut Command,
        log: &Path,
        final_signal: &str,
    ) -> (Process, ChildStderr) {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::start(name, command, log, final_signal);
        let errors = process.child.stderr.take().expect("it is piped");
        (process, errors)
    }

    fn start(name: &str, command: &mut Command, log: &Path, final_signal: &str) -> Process {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        watchdog::watch(final_signal, child.id());
        Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours can be waited for")
    }

    /// Sends a signal, unless the process has ended already.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).expect("a child that was not waited for can be signalled");
        }
    }

    /// Kills it with SIGKILL, as in a crash, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a child of ours can be waited for");
    }

    /// The last lines of its log, under its name.
    pub(crate) fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL)..];
        format!("--- {} (end of its log)\n{}\n", self.name, last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        watchdog::forget(self.child.id());
    }
}

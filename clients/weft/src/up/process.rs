//! One child process that does not outlive this one.
//!
//! A shell between this process and the child reads a pipe from here. It stops the child when the pipe closes,
//! which also happens when this process is killed.

use std::{fs::OpenOptions, path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

/// A program to start, and how to stop it.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) log: PathBuf,
    /// The signal that stops it: PostgreSQL waits for its clients on TERM, but not on INT.
    pub(crate) stop_signal: &'static str,
    /// How long it may take to stop until it is killed.
    pub(crate) grace: Duration,
    pub(crate) user: Option<User>,
}

/// The user that a program runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A running child. Dropping this asks the child to stop.
pub(crate) struct Process {
    pub(crate) pid: u32,
    watchdog: Child,
    /// Closing this pipe stops the child.
    stop_pipe: Option<ChildStdin>,
}

/// `$1` is the stop signal, `$2` the grace in tenths of a second, the rest the program. Prints the child's pid.
const WATCHDOG: &str = r#"
signal=$1; grace=$2; shift 2
exec 3<&0
"$@" </dev/null >&2 3<&- &
child=$!
echo "$child"
exec >&2
(
  read -r _ <&3
  kill "-$signal" "$child" 2>/dev/null
  while kill -0 "$child" 2>/dev/null; do
    grace=$((grace - 1))
    [ "$grace" -gt 0 ] || kill -KILL "$child" 2>/dev/null
    sleep 0.1
  done
) &
watcher=$!
exec 3<&-
wait "$child"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

impl Process {
    pub(crate) async fn start(program: &Program) -> anyhow::Result<Process> {
        let log = OpenOptions::new().create(true).append(true).open(&program.log);
        let log = log.with_context(|| format!("cannot write the log {}", program.log.display()))?;
        let grace = program.grace.as_millis() / 100;
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                WATCHDOG,
                "weft-watchdog",
                program.stop_signal,
                &grace.to_string(),
            ])
            .arg(&program.path)
            .args(&program.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C goes to the foreground's process group, but the children are to be stopped in order.
            .process_group(0);
        if let Some(user) = program.user {
            // The user may have no access to the current folder.
            command.uid(user.uid).gid(user.gid).current_dir("/");
        }
        let mut watchdog = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.name))?;
        let stop_pipe = watchdog.stdin.take();
        let mut output = BufReader::new(watchdog.stdout.take().context("the watchdog has no output")?);
        let mut pid = String::new();
        output
            .read_line(&mut pid)
            .await
            .context("the watchdog cannot be read")?;
        let pid = pid
            .trim()
            .parse()
            .with_context(|| format!("{} did not start", program.name))?;
        Ok(Process {
            pid,
            watchdog,
            stop_pipe,
        })
    }

    /// Asks the child to stop. The watchdog kills it after the grace.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stop_pipe = None;
    }

    /// Waits until the child has ended; returns a text such as `exit code 1`.
    pub(crate) async fn wait(&mut self) -> String {
        match self.watchdog.wait().await {
            // A shell reports a signal as 128 and its number.
            Ok(status) => match status.code() {
                Some(code) if code > 128 => format!("signal {}", code - 128),
                Some(code) => format!("exit code {code}"),
                None => "its watchdog was killed".to_owned(),
            },
            Err(error) => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str, grace: Duration) -> Program {
        Program {
            name: "sleeper",
            path: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: std::env::temp_dir().join(format!("weft-process-{}.log", uuid::Uuid::new_v4())),
            stop_signal: "TERM",
            grace,
            user: None,
        }
    }

    fn alive(pid: u32) -> bool {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::test_kill_process(pid).is_ok()
    }

    #[tokio::test]
    async fn a_child_stops_when_its_pipe_is_closed() {
        let mut process = Process::start(&program("exec sleep 60", Duration::from_secs(5)))
            .await
            .unwrap();
        assert!(alive(process.pid));
        process.ask_to_stop();
        assert_eq!(process.wait().await, "signal 15");
        assert!(!alive(process.pid));
    }

    #[tokio::test]
    async fn a_child_that_ignores_the_signal_is_killed_after_its_grace() {
        let script = "trap '' TERM; echo deaf; while :; do sleep 0.05; done";
        let deaf = program(script, Duration::from_millis(300));
        let mut process = Process::start(&deaf).await.unwrap();
        while !std::fs::read_to_string(&deaf.log).unwrap().contains("deaf") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.ask_to_stop();
        assert_eq!(process.wait().await, "signal 9");
    }

    #[tokio::test]
    async fn an_exit_is_reported_with_its_code() {
        let mut process = Process::start(&program("exit 3", Duration::from_secs(5)))
            .await
            .unwrap();
        assert_eq!(process.wait().await, "exit code 3");
    }
}

//! A child process that is restarted when it ends.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::process::{Process, Program};

const INITIAL_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A process that ran this long resets the backoff.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Supervises one child process. Dropping this stops the child; [`stop`](Supervised::stop) also waits.
pub(crate) struct Supervised {
    stop: CancellationToken,
    /// Cancelled once the program has been ready. A program that ends before is not restarted: it would only end
    /// again.
    restart_enabled: CancellationToken,
    ends: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts the program. `pid_file` always has the current pid; it is absent while no process runs.
    pub(crate) async fn start(program: Program, pid_file: PathBuf) -> anyhow::Result<Supervised> {
        let process = Process::start(&program).await?;
        write_pid(&pid_file, process.pid);
        let stop = CancellationToken::new();
        let restart_enabled = CancellationToken::new();
        let (ended, ends) = watch::channel(None);
        let restart_loop = RestartLoop {
            program,
            pid_file,
            stop: stop.clone(),
            restart_enabled: restart_enabled.clone(),
            ended,
        };
        let task = tokio::spawn(restart_loop.run(process));
        Ok(Supervised {
            stop,
            restart_enabled,
            ends,
            task,
        })
    }

    /// Restarts the program from now on when it ends.
    pub(crate) fn enable_restarts(&self) {
        self.restart_enabled.cancel();
    }

    /// Waits until the program has ended by itself; returns how it ended.
    pub(crate) async fn ended(&self) -> String {
        let mut ends = self.ends.clone();
        match ends.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_default(),
            Err(_) => "its supervisor has ended".to_owned(),
        }
    }

    /// Asks the program to stop and waits until it has, slightly longer than its grace at most.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The task that waits for the program's end and restarts it.
struct RestartLoop {
    program: Program,
    pid_file: PathBuf,
    stop: CancellationToken,
    restart_enabled: CancellationToken,
    ended: watch::Sender<Option<String>>,
}

impl RestartLoop {
    async fn run(self, mut process: Process) {
        let mut backoff = INITIAL_BACKOFF;
        loop {
            let started = Instant::now();
            let end = tokio::select! {
                end = process.wait() => end,
                () = self.stop.cancelled() => {
                    process.ask_to_stop();
                    process.wait().await;
                    let _ = fs::remove_file(&self.pid_file);
                    return;
                }
            };
            let name = self.program.name;
            // There is no process until the restart.
            let _ = fs::remove_file(&self.pid_file);
            self.ended.send_replace(Some(end.clone()));
            if !self.restart_enabled.is_cancelled() {
                return;
            }
            if started.elapsed() > HEALTHY_AFTER {
                backoff = INITIAL_BACKOFF;
            }
            let log = self.program.log.display();
            eprintln!(
                "{name} ended ({end}); starting it again in {} ms, its log is {log}",
                backoff.as_millis()
            );
            let Some(restarted) = self.restart(&mut backoff).await else {
                return;
            };
            process = restarted;
            write_pid(&self.pid_file, process.pid);
            eprintln!("{name} runs again, as process {}", process.pid);
        }
    }

    /// `None` if it is stopped meanwhile.
    async fn restart(&self, backoff: &mut Duration) -> Option<Process> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(*backoff) => {}
                () = self.stop.cancelled() => return None,
            }
            *backoff = (*backoff * 2).min(MAX_BACKOFF);
            match Process::start(&self.program).await {
                Ok(process) => return Some(process),
                Err(error) => eprintln!("{error:#}"),
            }
        }
    }
}

/// Writes the pid for `weft status` and for the clean-up by the next `weft up`. Errors are ignored.
fn write_pid(pid_file: &PathBuf, pid: u32) {
    let _ = fs::write(pid_file, pid.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_pid_is_written_while_an_ended_program_waits_for_its_restart() {
        let folder = std::env::temp_dir().join(format!("weft-supervisor-{}", uuid::Uuid::new_v4()));
        let logs = folder.join("log");
        fs::create_dir_all(&logs).unwrap();
        let pid_file = folder.join("pid");
        let go = folder.join("go");
        let program = Program {
            name: "once",
            path: "sh".into(),
            // Every restart fails, because the folder of its log is removed.
            arguments: vec![
                "-c".into(),
                "while [ ! -e \"$1\" ]; do sleep 0.02; done; rm -r \"$2\"; exit 3".into(),
                "once".into(),
                go.display().to_string(),
                logs.display().to_string(),
            ],
            log: logs.join("once.log"),
            stop_signal: "TERM",
            grace: Duration::from_secs(5),
            user: None,
        };
        let supervised = Supervised::start(program, pid_file.clone()).await.unwrap();
        supervised.enable_restarts();
        let written = fs::read_to_string(&pid_file).unwrap();
        assert!(written.parse::<u32>().is_ok(), "{written}");
        fs::write(&go, "").unwrap();
        assert_eq!(supervised.ended().await, "exit code 3");
        assert!(!pid_file.exists(), "the pid file still names the ended process");
        supervised.stop().await;
        fs::remove_dir_all(folder).unwrap();
    }
}

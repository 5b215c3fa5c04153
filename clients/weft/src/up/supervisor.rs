//! A child process that is started again when it dies.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::process::{Process, Program};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A process that ran so long has not failed at its start.
const HEALTHY: Duration = Duration::from_secs(30);

/// Looks after one child process. Dropping it stops the child; [`stop`](Supervised::stop) also waits.
pub(crate) struct Supervised {
    stop: CancellationToken,
    ends: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts the program. Its pid is written to `pid_file` whenever it changes.
    pub(crate) async fn start(program: Program, pid_file: PathBuf) -> anyhow::Result<Supervised> {
        let process = Process::start(&program).await?;
        note(&pid_file, process.pid);
        let stop = CancellationToken::new();
        let (ended, ends) = watch::channel(None);
        let task = tokio::spawn(look_after(program, pid_file, process, stop.clone(), ended));
        Ok(Supervised { stop, ends, task })
    }

    /// Waits until the program ends by itself, for whatever waits for it to be ready; it is started again meanwhile.
    pub(crate) async fn ended(&self) -> String {
        let mut ends = self.ends.clone();
        match ends.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_default(),
            Err(_) => "nobody looks after it any more".to_owned(),
        }
    }

    /// Asks the program to stop and waits for it, no longer than its grace and a little.
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

async fn look_after(
    program: Program,
    pid_file: PathBuf,
    mut process: Process,
    stop: CancellationToken,
    ended: watch::Sender<Option<String>>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        let started = Instant::now();
        let end = tokio::select! {
            end = process.ended() => end,
            () = stop.cancelled() => {
                process.ask_to_stop();
                process.ended().await;
                let _ = fs::remove_file(&pid_file);
                return;
            }
        };
        if started.elapsed() > HEALTHY {
            wait = FIRST_WAIT;
        }
        eprintln!(
            "{} ended ({end}); starting it again in {} ms, its log is {}",
            program.name,
            wait.as_millis(),
            program.log.display()
        );
        ended.send_replace(Some(end));
        process = loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
            match Process::start(&program).await {
                Ok(process) => break process,
                Err(error) => eprintln!("{error:#}"),
            }
        };
        note(&pid_file, process.pid);
        eprintln!("{} runs again", program.name);
    }
}

/// For people and for the next `weft up`; nothing depends on it while this process lives.
fn note(pid_file: &PathBuf, pid: u32) {
    let _ = fs::write(pid_file, pid.to_string());
}

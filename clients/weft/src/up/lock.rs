//! The lock that allows one `weft up` per folder, and the clean-up after a killed one.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::workspace::Workspace;

/// Held while this process runs the system in the folder. The operating system releases it when the process ends.
pub(crate) struct Lock(#[expect(dead_code, reason = "holding the file holds the lock")] File);

/// How long the children of a killed predecessor may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

impl Lock {
    /// # Errors
    /// When another `weft up` runs there; the error names its process.
    pub(crate) fn acquire(workspace: &Workspace) -> anyhow::Result<Lock> {
        match try_lock(workspace)? {
            Some(file) => Ok(Lock(file)),
            None => {
                let pid = workspace
                    .read_description()
                    .map_or_else(String::new, |description| {
                        format!(" (process {})", description.pid)
                    });
                bail!(
                    "weft already runs in {}{pid}: `weft status` shows it, `weft down` stops it",
                    workspace.path().display()
                )
            }
        }
    }

    /// Whether no `weft up` runs in the folder, as far as this user can see. Creates no file.
    pub(crate) fn is_free(workspace: &Workspace) -> bool {
        match File::open(workspace.path().join("lock")) {
            Ok(file) => file.try_lock_shared().is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    /// Whether a `weft up` runs in the folder.
    pub(crate) fn is_held(workspace: &Workspace) -> bool {
        matches!(try_lock(workspace), Ok(None))
    }
}

/// Removes the folder with all its content.
///
/// # Errors
/// When a `weft up` runs in it.
pub(crate) async fn clear(workspace: &Workspace) -> anyhow::Result<()> {
    if !workspace.path().exists() {
        return Ok(());
    }
    let workspace = workspace.create()?;
    let lock = Lock::acquire(&workspace)?;
    clear_leftovers(&workspace).await?;
    fs::remove_dir_all(workspace.path())
        .with_context(|| format!("{} cannot be removed", workspace.path().display()))?;
    drop(lock);
    Ok(())
}

fn try_lock(workspace: &Workspace) -> anyhow::Result<Option<File>> {
    let path = workspace.path().join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Waits until the children of a killed predecessor have stopped, and kills those that do not stop in time: their
/// watchdogs may have been killed too. Requires the lock.
pub(crate) async fn clear_leftovers(workspace: &Workspace) -> anyhow::Result<()> {
    let began = Instant::now();
    let files = fs::read_dir(workspace.path().join("run")).context("cannot read the folder of pids")?;
    for path in files.flatten().map(|entry| entry.path()) {
        let pid = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(pid) = pid.filter(|pid| belongs_to(workspace, *pid)) {
            eprintln!("process {pid} of an earlier run is still there, waiting for it to stop");
            while belongs_to(workspace, pid) && began.elapsed() < STOP_TIMEOUT {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if belongs_to(workspace, pid) {
                eprintln!("process {pid} does not stop, killing it");
                send_signal(pid, Signal::KILL);
            }
        }
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

/// Sends a signal; false if there is no such process, or it belongs to another user.
pub(crate) fn send_signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Whether the process exists and has this folder on its command line: the pid may have been reused.
fn belongs_to(workspace: &Workspace, pid: u32) -> bool {
    // On Linux /proc has it; slim systems do not have `ps`.
    if let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) {
        return contains(&arguments, workspace.path());
    }
    let output = Command::new("ps")
        .args(["-o", "args=", "-p", &pid.to_string()])
        .output();
    output.is_ok_and(|output| contains(&output.stdout, workspace.path()))
}

fn contains(arguments: &[u8], folder: &Path) -> bool {
    String::from_utf8_lossy(arguments).contains(&*folder.to_string_lossy())
}

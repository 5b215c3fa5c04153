//! Ends every child process and removes every temporary folder when the test process is gone, also if it was
//! killed or aborted, where no destructor runs.
//!
//! One shell per test process reads from a pipe what to clean up. The kernel closes the pipe when the test process
//! ends for any reason; the shell then reads end-of-file and cleans up. The pipe is close-on-exec, so no child
//! holds it open.

use std::{
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// `watch SIGNAL PID` and `forget PID` keep the list of processes; `remove FOLDER` is done last.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
watched=
folders=$(mktemp)
while read -r verb first second; do
  case $verb in
    watch) watched="$watched $first:$second" ;;
    forget) rest=; for one in $watched; do [ "${one#*:}" = "$first" ] || rest="$rest $one"; done; watched=$rest ;;
    remove) printf '%s\n' "$first" >>"$folders" ;;
  esac
done
for one in $watched; do kill -s "${one%%:*}" "${one#*:}" 2>/dev/null; done
tries=0
for one in $watched; do
  while kill -0 "${one#*:}" 2>/dev/null && [ $tries -lt 20 ]; do tries=$((tries + 1)); sleep 0.1; done
  kill -s KILL "${one#*:}" 2>/dev/null
done
while read -r folder; do rm -rf "$folder"; done <"$folders"
rm -f "$folders"
"#;

/// Registers a process to be ended with this signal (`KILL`, `QUIT`) when the test process is gone.
pub fn watch(signal: &str, pid: u32) {
    send(&format!("watch {signal} {pid}"));
}

/// Removes a process that has been waited for: its id may belong to another by now.
pub fn forget(pid: u32) {
    send(&format!("forget {pid}"));
}

/// Registers a folder to be removed when the test process is gone.
pub fn remove(folder: &Path) {
    send(&format!("remove {}", folder.display()));
}

fn send(line: &str) {
    static SHELL: OnceLock<Mutex<Child>> = OnceLock::new();
    let shell = SHELL.get_or_init(|| Mutex::new(start()));
    let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
    let pipe = shell.stdin.as_mut().expect("the pipe was asked for");
    writeln!(pipe, "{line}").expect("the watchdog ignores signals and ends after this process");
}

fn start() -> Child {
    Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("every system that runs the tests has a POSIX shell")
}

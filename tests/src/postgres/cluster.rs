//! Runs `initdb` and `postgres`, as another user where the tests run as root: both refuse root.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::Path,
    process::Command,
};

use super::Durability;
use crate::{binaries, process::Process};

/// Users to run the server as when root, in order of preference.
const SYSTEM_USERS: [&str; 2] = ["postgres", "nobody"];

/// Creates a cluster in `folder/data`, superuser `postgres`, no passwords.
pub(super) fn init(folder: &Path) {
    if let Some((user, group)) = system_user() {
        chown(folder, Some(user), Some(group)).expect("root may give a folder away");
    }
    let mut command = command("initdb", folder);
    let output = command
        .args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ])
        .arg(folder.join("data"))
        .output()
        .unwrap_or_else(|error| panic!("cannot run initdb ({error}); scripts/setup installs PostgreSQL"));
    assert!(
        output.status.success(),
        "initdb failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Starts the server of the cluster in `folder`.
pub(super) fn spawn(folder: &Path, port: u16, durability: Durability, more: &[&'static str]) -> Process {
    let mut command = command("postgres", folder);
    command
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-p", &port.to_string()]);
    let fixed = [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=400",
        "shared_buffers=64MB",
        "timezone=UTC",
        "log_min_messages=warning",
    ];
    let unsafe_but_fast = [
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "autovacuum_naptime=1h",
    ];
    let settings = match durability {
        Durability::Fast => [&fixed[..], &unsafe_but_fast].concat(),
        Durability::Durable => fixed.to_vec(),
    };
    for setting in settings.iter().chain(more) {
        command.args(["-c", setting]);
    }
    // SIGQUIT is the immediate shutdown: it also releases the shared memory.
    Process::spawn("postgres", &mut command, &folder.join("postgres.log"), "QUIT")
}

/// Requires a password of these roles once the server has reloaded its configuration; all others are trusted.
pub(super) fn require_passwords(folder: &Path, roles: &str) {
    let file = folder.join("data/pg_hba.conf");
    let rules = fs::read_to_string(&file).expect("initdb has written it");
    // The first matching rule applies.
    let rules = format!("host all {roles} 127.0.0.1/32 scram-sha-256\n{rules}");
    fs::write(&file, rules).expect("the folder is the test's own");
}

fn command(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(binaries::tool(program));
    command.current_dir(folder);
    if let Some((user, group)) = system_user() {
        command.uid(user).gid(group);
    }
    command
}

/// User and group to run the server as; none when not root.
fn system_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = SYSTEM_USERS
        .iter()
        .find_map(|name| users.lines().find_map(|line| identity(line, name)));
    Some(found.expect("root needs a user `postgres` or `nobody` to run PostgreSQL as"))
}

/// User and group ids in a line of `/etc/passwd`, if it is this user's.
fn identity(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    (fields.next()? == name).then_some(())?;
    Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
}

//! `weft up --detach`, `weft down` and `weft status`, which control the system from another process.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    Arguments,
    lock::{self, Lock},
    readiness::{self, Probe},
};
use crate::{
    failure::Failure,
    globals::{Format, Globals},
    output::{self, Table},
    workspace::Workspace,
};

/// How long a whole start or stop may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Starts `weft up` in the background and waits until all is ready.
pub(crate) async fn detach(
    globals: &Globals,
    workspace: &Workspace,
    arguments: &Arguments,
) -> Result<(), Failure> {
    let workspace = workspace
        .create()
        .with_context(|| format!("{} cannot be created", workspace.path().display()))?;
    drop(Lock::acquire(&workspace)?);
    let _ = fs::remove_file(workspace.path().join("weft.json"));
    let log = workspace.log("weft");
    let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(env::current_exe().context("the path of this program is unknown")?);
    command
        .arg("up")
        .arg("--dir")
        .arg(workspace.path())
        .args(["--facility", &globals.facility]);
    if arguments.free_ports {
        command.arg("--free-ports");
    }
    if let Some(ttl) = arguments.certificate_ttl() {
        command.args(["--tls", "--certificate-ttl", &format!("{}ms", ttl.as_millis())]);
    }
    // Its own process group, so that Ctrl-C in this terminal does not stop it.
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0);
    let mut child = command
        .spawn()
        .context("weft cannot be started in the background")?;
    let began = Instant::now();
    while workspace.read_description().is_none() {
        if child.try_wait()?.is_some() {
            return Err(Failure::Other(anyhow!(
                "it did not start:\n{}",
                readiness::tail(&log)
            )));
        }
        if began.elapsed() > TIMEOUT {
            return Err(Failure::Other(anyhow!(
                "it is not ready yet; see {}",
                log.display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    print_status(globals.output, &workspace).await
}

/// Stops the system in the folder, and waits until it has stopped.
pub(crate) async fn down(globals: &Globals) -> Result<(), Failure> {
    let workspace = Workspace::find(globals);
    let Some(description) = workspace.read_description().filter(|_| Lock::is_held(&workspace)) else {
        return print_stopped(globals.output, &workspace, "nothing runs in", false);
    };
    if !lock::send_signal(description.pid, Signal::TERM) {
        return Err(Failure::Other(anyhow!(
            "process {} cannot be signalled to stop",
            description.pid
        )));
    }
    let began = Instant::now();
    while Lock::is_held(&workspace) {
        if began.elapsed() > TIMEOUT {
            return Err(Failure::Other(anyhow!(
                "process {} has not stopped after two minutes",
                description.pid
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    print_stopped(globals.output, &workspace, "stopped; the data stays in", true)
}

/// `was_running`: whether there was a system to stop.
fn print_stopped(
    format: Format,
    workspace: &Workspace,
    text: &str,
    was_running: bool,
) -> Result<(), Failure> {
    let folder = workspace.path().display().to_string();
    match format {
        Format::Json => output::print_json(&json!({"folder": folder, "stopped": was_running})),
        Format::Table => {
            println!("{text} {folder}");
            Ok(())
        }
    }
}

/// Shows the processes of the system in the folder; fails if one is not ready.
pub(crate) async fn status(globals: &Globals) -> Result<(), Failure> {
    print_status(globals.output, &Workspace::find(globals)).await
}

async fn print_status(format: Format, workspace: &Workspace) -> Result<(), Failure> {
    let Some(description) = workspace.read_description().filter(|_| Lock::is_held(workspace)) else {
        let text = format!(
            "nothing runs in {}: `weft up` starts it",
            workspace.path().display()
        );
        return Err(Failure::Other(anyhow!(text)));
    };
    let mut table = Table::new(["", "STATE", ">PID", "ADDRESS", "PROBES", "LOG"], "");
    let mut rows: Vec<Value> = Vec::new();
    let mut all_ready = true;
    let mut row = |name: &str, state: &str, address: &str, probe: &str| {
        let pid = fs::read_to_string(workspace.pid_file(name)).unwrap_or_default();
        let log = workspace.log(name).display().to_string();
        rows.push(json!({"name": name, "state": state, "pid": pid.parse::<u32>().ok(), "address": address, "probe": probe, "log": log}));
        table.row([
            name.to_owned(),
            state.to_owned(),
            pid,
            address.to_owned(),
            probe.to_owned(),
            log,
        ]);
    };
    for (name, addresses) in &description.services {
        let port = addresses
            .probe_url
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or(0);
        let state = match Probe::new(port).check().await {
            Ok(()) => "ready".to_owned(),
            Err(why) => {
                all_ready = false;
                format!("not ready: {why}")
            }
        };
        row(name, &state, &addresses.url, &addresses.probe_url);
    }
    for (name, url) in &description.servers {
        let address = url.rsplit("//").next().unwrap_or_default();
        let open = tokio::net::TcpStream::connect(address).await.is_ok();
        all_ready &= open;
        row(name, if open { "ready" } else { "not ready" }, url, "");
    }
    match format {
        Format::Json => {
            output::print_json(&json!({"pid": description.pid, "ready": all_ready, "processes": rows}))?;
        }
        Format::Table => print!("{table}"),
    }
    if all_ready {
        Ok(())
    } else {
        Err(Failure::AlreadyReported)
    }
}

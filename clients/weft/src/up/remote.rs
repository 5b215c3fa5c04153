//! `weft up --detach`, `weft down` and `weft status`: from outside the process that runs everything.

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
    cli::{Format, Globals},
    failure::Failure,
    home::Home,
    output::{self, Table},
};

/// How long a start or a stop may take altogether.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts `weft up` in the background and waits until all is ready.
pub(crate) async fn detach(globals: &Globals, home: &Home, arguments: &Arguments) -> Result<(), Failure> {
    let home = home
        .create()
        .with_context(|| format!("{} cannot be created", home.path().display()))?;
    drop(Lock::take(&home)?);
    let _ = fs::remove_file(home.path().join("weft.json"));
    let log = home.log("weft");
    let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(env::current_exe().context("this program cannot tell where it is")?);
    command
        .arg("up")
        .arg("--dir")
        .arg(home.path())
        .args(["--facility", &globals.facility]);
    if arguments.free_ports {
        command.arg("--free-ports");
    }
    if let Some(ttl) = arguments.certificate_ttl() {
        command.args(["--tls", "--certificate-ttl", &format!("{}ms", ttl.as_millis())]);
    }
    // A group of its own: Ctrl-C in this terminal is not meant for it.
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0);
    let mut child = command
        .spawn()
        .context("weft cannot be started in the background")?;
    let began = Instant::now();
    while home.description().is_none() {
        if child.try_wait()?.is_some() {
            return Err(Failure::Other(anyhow!(
                "it did not start:\n{}",
                readiness::tail(&log)
            )));
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::Other(anyhow!(
                "it is not ready yet; see {}",
                log.display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    status_of(globals.output, &home).await
}

/// Stops what runs in the folder, and waits for it.
pub(crate) async fn down(globals: &Globals) -> Result<(), Failure> {
    let home = Home::find(globals);
    let Some(description) = home.description().filter(|_| Lock::is_taken(&home)) else {
        return stopped(globals.output, &home, "nothing runs in", false);
    };
    if !lock::send(description.pid, Signal::TERM) {
        return Err(Failure::Other(anyhow!(
            "process {} cannot be told to stop",
            description.pid
        )));
    }
    let began = Instant::now();
    while Lock::is_taken(&home) {
        if began.elapsed() > PATIENCE {
            return Err(Failure::Other(anyhow!(
                "process {} has not stopped after two minutes",
                description.pid
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stopped(globals.output, &home, "stopped; the data stays in", true)
}

/// `was_running`: something was there to stop.
fn stopped(format: Format, home: &Home, text: &str, was_running: bool) -> Result<(), Failure> {
    let folder = home.path().display().to_string();
    match format {
        Format::Json => output::print_json(&json!({"folder": folder, "stopped": was_running})),
        Format::Table => {
            println!("{text} {folder}");
            Ok(())
        }
    }
}

/// Shows what runs in the folder; fails when it is not all ready.
pub(crate) async fn status(globals: &Globals) -> Result<(), Failure> {
    status_of(globals.output, &Home::find(globals)).await
}

async fn status_of(format: Format, home: &Home) -> Result<(), Failure> {
    let Some(description) = home.description().filter(|_| Lock::is_taken(home)) else {
        let text = format!("nothing runs in {}: `weft up` starts it", home.path().display());
        return Err(Failure::Other(anyhow!(text)));
    };
    let mut table = Table::new(["", "STATE", ">PID", "ADDRESS", "PROBES", "LOG"], "");
    let mut rows: Vec<Value> = Vec::new();
    let mut all_ready = true;
    let mut row = |name: &str, state: &str, address: &str, probe: &str| {
        let pid = fs::read_to_string(home.pid_file(name)).unwrap_or_default();
        let log = home.log(name).display().to_string();
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
    if all_ready { Ok(()) } else { Err(Failure::Told) }
}

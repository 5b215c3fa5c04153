//! `weft up`: PostgreSQL, NATS and the services as child processes on this machine.
//!
//! The modules are in reading order: the location of programs, ports and certificates; one child process and its
//! supervision; the servers and the services; the lock, the control commands and the whole system.

mod certificates;
mod ports;
mod programs;

mod process;
mod supervisor;

mod nats;
mod postgres;
mod readiness;
mod service;

mod control;
mod lock;
mod options;
mod system;

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    duration,
    failure::Failure,
    globals::{Format, Globals},
    workspace::Workspace,
};
pub(crate) use control::{down, status};
pub(crate) use lock::{Lock, clear};
pub(crate) use options::Options;
pub(crate) use system::System;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Go on in the background once all is ready; `weft down` stops it
    #[arg(long)]
    detach: bool,
    /// Take any free ports for the services, instead of 7101 to 7103 and 7201 to 7203 where those are free
    #[arg(long)]
    free_ports: bool,
    /// Secure all calls by mutual TLS, with an authority and certificates of this system's own
    #[arg(long)]
    tls: bool,
    /// How long a certificate is good for, 2s to 365d, by default 24h; it is renewed at half of that
    #[arg(long, value_name = "DURATION", value_parser = certificate_ttl, requires = "tls")]
    certificate_ttl: Option<Duration>,
}

impl Arguments {
    /// The certificates' lifetime; `None` without mutual TLS.
    fn certificate_ttl(&self) -> Option<Duration> {
        self.tls.then(|| self.certificate_ttl.unwrap_or(CERTIFICATE_TTL))
    }
}

/// The default lifetime of a certificate.
pub(crate) const CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);

fn certificate_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration::parse(text)?;
    let bounds = Duration::from_secs(2)..=Duration::from_secs(365 * 24 * 3600);
    if bounds.contains(&ttl) {
        Ok(ttl)
    } else {
        Err("must be 2s to 365d".to_owned())
    }
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) async fn run(globals: &Globals, arguments: Arguments) -> Result<(), Failure> {
    let workspace = Workspace::find(globals);
    if arguments.detach {
        return control::detach(globals, &workspace, &arguments).await;
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let options = Options {
        workspace,
        free_ports: arguments.free_ports,
        certificate_ttl: arguments.certificate_ttl(),
        quiet: globals.output == Format::Json,
    };
    let started = tokio::select! {
        started = System::start(options) => started?,
        _ = interrupt.recv() => return Err(Failure::Other(anyhow::anyhow!("interrupted; the started processes are being stopped"))),
        _ = terminate.recv() => return Err(Failure::Other(anyhow::anyhow!("terminated; the started processes are being stopped"))),
    };
    started.print_summary(globals)?;
    tokio::select! {
        _ = interrupt.recv() => eprintln!("\nstopping"),
        _ = terminate.recv() => eprintln!("stopping"),
    }
    let stopped = started.stop();
    tokio::select! {
        () = stopped => Ok(()),
        // The watchdogs stop the remaining children once this process has ended.
        _ = interrupt.recv() => Err(Failure::Other(anyhow::anyhow!("stopped without waiting"))),
        () = tokio::time::sleep(Duration::from_secs(60)) => Err(Failure::Other(anyhow::anyhow!("not all stopped within a minute"))),
    }
}

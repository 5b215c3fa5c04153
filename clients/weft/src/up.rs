//! `weft up`: PostgreSQL, NATS and the services as child processes on this machine.
//!
//! The modules are in reading order: where programs are and which ports they get, how one child process is run
//! and watched, then the servers, the services, and all of it together.

mod ports;
mod programs;

mod process;
mod supervisor;

mod nats;
mod postgres;
mod readiness;
mod service;

mod lock;
mod remote;
mod system;

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{Format, Globals},
    failure::Failure,
    home::Home,
};
pub(crate) use lock::clear;
pub(crate) use remote::{down, status};
pub(crate) use system::{Options, System};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Go on in the background once all is ready; `weft down` stops it
    #[arg(long)]
    detach: bool,
    /// Take any free ports for the services, instead of 7101 to 7103 and 7201 to 7203 where those are free
    #[arg(long)]
    free_ports: bool,
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) async fn run(globals: &Globals, arguments: Arguments) -> Result<(), Failure> {
    let home = Home::find(globals);
    if arguments.detach {
        return remote::detach(globals, &home, arguments.free_ports).await;
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let options = Options {
        home,
        free_ports: arguments.free_ports,
        quiet: globals.output == Format::Json,
    };
    let started = tokio::select! {
        started = System::start(options) => started?,
        _ = interrupt.recv() => return Err(Failure::Other(anyhow::anyhow!("interrupted; what had started is being stopped"))),
        _ = terminate.recv() => return Err(Failure::Other(anyhow::anyhow!("terminated; what had started is being stopped"))),
    };
    started.announce(globals)?;
    tokio::select! {
        _ = interrupt.recv() => eprintln!("\nstopping"),
        _ = terminate.recv() => eprintln!("stopping"),
    }
    let stopped = started.stop();
    tokio::select! {
        () = stopped => Ok(()),
        // The watchdogs end what is left as soon as this process has gone.
        _ = interrupt.recv() => Err(Failure::Other(anyhow::anyhow!("stopped without waiting"))),
        () = tokio::time::sleep(Duration::from_secs(60)) => Err(Failure::Other(anyhow::anyhow!("not all stopped within a minute"))),
    }
}

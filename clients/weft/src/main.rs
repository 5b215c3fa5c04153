//! `weft`: the command line. Runs a local system, calls the services and imports files.
//!
//! The modules are in reading order: what a command line says, how a service is called, what is printed, then
//! one module a command.

mod cli;
mod duration;
mod home;

mod env;
mod keys;
mod token;

mod clients;
mod confirm;
mod failure;
mod nearest;
mod order_name;
mod output;
mod paging;

mod claim;
mod dlq;
mod events;
mod ledger;
mod mesh_policy;
mod mesh_top;
mod order;
mod payment;
mod remittance;
mod saga;

mod import;

mod demo;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Two providers may be compiled in, and rustls then refuses to choose. A second installation changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    end_quietly_when_nobody_reads();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::misused(&error),
    };
    let output = cli.globals.output;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(output),
    };
    let outcome = runtime.block_on(run(cli));
    // A name lookup or a read of standard input that hangs must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output),
    }
}

/// `weft order list | head`: `println!` panics when the reader has gone, which is no fault to report.
fn end_quietly_when_nobody_reads() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        if message.is_some_and(|message| message.starts_with("failed printing to stdout")) {
            std::process::exit(0);
        }
        report(panic);
    }));
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let globals = &cli.globals;
    match cli.command {
        Command::Up(arguments) => up::run(globals, arguments).await,
        Command::Down => up::down(globals).await,
        Command::Status => up::status(globals).await,
        Command::Demo(arguments) => demo::run(globals, arguments).await,
        Command::Env => env::run(globals),
        Command::Token(arguments) => token::run(globals, &arguments),
        Command::Order(command) => order::run(globals, command).await,
        Command::Payment(command) => payment::run(globals, command).await,
        Command::Claim(command) => claim::run(globals, command).await,
        Command::Remittance(command) => remittance::run(globals, command).await,
        Command::Ledger(command) => ledger::run(globals, command).await,
        Command::Saga(command) => saga::run(globals, command).await,
        Command::Dlq(command) => dlq::run(globals, command).await,
        Command::Events(command) => events::run(globals, command).await,
        Command::Mesh(command) => mesh_policy::run(globals, command).await,
    }
}

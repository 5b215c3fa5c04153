//! `weft`: the command line. Runs a local system, calls the services and imports files.
//!
//! The modules are in reading order: the command line, the local files and keys, calls to the services and their
//! output, then one module for each command. No module but this one imports `cli`.

mod cli;
mod duration;
mod enum_value;
mod globals;

mod env;
mod keys;
mod token;
mod workspace;

mod clients;
mod confirm;
mod failure;
mod order_arg;
mod output;
mod paging;
mod policies;
mod request_id;
mod service;
mod suggestion;

mod claim;
mod dlq;
mod events;
mod ledger;
mod mesh_policy;
mod mesh_top;
mod open_work;
mod order;
mod payment;
mod remittance;
mod saga;

mod import;

mod demo;
mod up;

use std::{io::Write as _, process::ExitCode};

use crate::cli::{Cli, Command};
use crate::failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Two providers may be compiled in, and rustls then refuses to choose. A second installation changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    exit_on_write_error();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return failure::report_usage(&error),
    };
    let output = cli.globals.output;
    let request_id = cli.globals.command_request_id.clone();
    let globals = cli.globals.clone();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(output, None),
    };
    let outcome = runtime.block_on(async {
        match run(cli).await {
            Err(failure) => Err(clients::explain(&globals, failure).await),
            done => done,
        }
    });
    // A name lookup or a read of standard input that hangs must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    match outcome {
        Ok(()) => match std::io::stdout().flush() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => ExitCode::from(failure::report_write_error(&error.to_string())),
        },
        Err(failure) => failure.report(output, request_id.sent().as_deref()),
    }
}

/// Ends the process when its output cannot be written: `println!` and `eprintln!` would panic. A closed pipe, as
/// of `weft order list | head`, is a success; a full disk is a failure.
fn exit_on_write_error() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        if let Some(error) = message.and_then(|message| message.strip_prefix("failed printing to std")) {
            let error = error.trim_start_matches("out: ").trim_start_matches("err: ");
            std::process::exit(i32::from(failure::report_write_error(error)));
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

//! `weft demo`: one claim from the order to the last remittance, on a separate local system.

mod files;
mod show;
mod snapshot;
mod step;

use std::{
    env,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use proto::payment::v1::GetTrialBalanceRequest;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    clients::Clients,
    duration,
    failure::Failure,
    globals::{Format, Globals, TlsOptions},
    ledger,
    up::{self, Options, System},
    workspace::Workspace,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where the five files are, if you have changed them; by default they come with this program
    #[arg(long, value_name = "FOLDER")]
    files: Option<PathBuf>,
    /// Secure all calls by mutual TLS, as `weft up --tls` does
    #[arg(long)]
    tls: bool,
    /// Leave the system running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(globals: &Globals, arguments: Arguments) -> Result<(), Failure> {
    if globals.output == Format::Json {
        let message = "weft demo has no JSON output: leave --output (or WEFT_OUTPUT) out";
        return Err(Failure::Usage(message.to_owned()));
    }
    let workspace = Workspace::new(Workspace::find(globals).path().join("demo"));
    up::clear(&workspace).await?;
    println!("A system of its own for this demonstration:");
    let began = Instant::now();
    let options = Options {
        workspace,
        free_ports: true,
        certificate_ttl: arguments.tls.then_some(up::CERTIFICATE_TTL),
        quiet: false,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let system = tokio::select! {
        system = System::start(options) => system?,
        _ = interrupt.recv() => return Err(Failure::Other(anyhow!("interrupted"))),
    };
    let files = match arguments.files {
        Some(files) => files,
        None => {
            let files = system.workspace().path().join("examples");
            files::unpack(&files).with_context(|| format!("cannot write {}", files.display()))?;
            files
        }
    };
    let demo_globals = Globals {
        dir: Some(system.workspace().path().to_owned()),
        facility: "TEST-FAC-1".to_owned(),
        token: None,
        order_url: None,
        payment_url: None,
        claims_url: None,
        tls: TlsOptions::default(),
        ..globals.clone()
    };
    let outcome = tokio::select! {
        outcome = run_steps(&demo_globals, &files) => outcome,
        _ = interrupt.recv() => Err(Failure::Other(anyhow!("interrupted"))),
    };
    let folder = system.workspace().path().to_owned();
    if outcome.is_ok() {
        println!(
            "\nAll figures are as expected, after {}.",
            duration::format_rounded(began.elapsed())
        );
        print_next_steps(&folder, arguments.keep);
    }
    if outcome.is_ok() && arguments.keep {
        interrupt.recv().await;
    }
    system.stop().await;
    outcome
}

/// Imports the five files one after the other, and prints the trial balance.
async fn run_steps(globals: &Globals, files: &Path) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    for step in &step::STEPS {
        step.run(&clients, files).await?;
    }
    let balance = ledger::trial_balance(&clients, GetTrialBalanceRequest::default()).await?;
    println!(
        "\nThe trial balance of everything:\n\n{}",
        ledger::show_balance(&balance, ledger::EMPTY)
    );
    if balance.balanced {
        Ok(())
    } else {
        Err(Failure::Other(anyhow!("the ledger does not balance")))
    }
}

fn print_next_steps(folder: &Path, keep: bool) {
    let folder = folder.display();
    let weft = env::args().next().unwrap_or_else(|| "weft".to_owned());
    if keep {
        println!("\nIt keeps running; in another terminal:\n");
    } else {
        println!("\nTo go on with this data:\n\n  {weft} --dir {folder} up");
    }
    println!("  {weft} --dir {folder} --facility TEST-FAC-1 order list");
    println!("  {weft} --dir {folder} --facility TEST-FAC-1 claim get TEST-FAC-1/CLM-0001");
    println!("  {weft} --dir {folder} --facility TEST-FAC-1 ledger entries");
    println!("\nTo start afresh with your own: {weft} up");
}

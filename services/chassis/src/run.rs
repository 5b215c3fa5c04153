//! The command line and the life cycle of the process.

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Process, Service, Settings, Violations, build,
    config::{self, Effective, Sources},
    contract, postgres,
    telemetry::{self, LogWriter},
};

/// Exit code for wrong usage or configuration (`EX_USAGE` would be 64; clap exits with 2 as well).
const USAGE_ERROR: u8 = 2;

/// Runs the service as a program: `serve`, `migrate` or `check-config`. Exits with 0 after a clean stop, 1 after a
/// failure, 2 when the command line or the configuration is wrong.
pub fn run<S: Service>() -> ExitCode {
    // Several providers may be compiled in, and rustls does not choose between them. Installing a second time has
    // no effect.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    contract::set_schema(S::contract());
    let matches = match command::<S>().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return exit_for(&error),
    };
    let effective = config::load::<S::Settings>(S::NAME, &sources(&matches));
    match matches.subcommand_name() {
        Some("check-config") => check_config(&effective),
        Some("migrate") => with_settings(effective.into_settings_for("database"), |settings| {
            migrate::<S>(&settings)
        }),
        _ => with_settings(with_telemetry(effective.into_settings()), serve::<S>),
    }
}

fn command<S: Service>() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .global(true)
        .help("Read settings from a TOML file");
    let set = Arg::new("set")
        .long("set")
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .global(true)
        .help("Set one setting, by its dotted name; overrides file and environment");
    let environment = S::NAME.to_uppercase();
    Command::new(S::NAME)
        .about(S::ABOUT)
        .version(build())
        .after_help(format!(
            "Settings: defaults < file < environment ({environment}__DATABASE__URL sets database.url) < --set.\n\
             `check-config` lists them all."
        ))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(config)
        .arg(set)
        .subcommand(Command::new("serve").about("Serve until SIGTERM or SIGINT, then drain"))
        .subcommand(Command::new("migrate").about("Bring the database to this version's schema; needs only database.*"))
        .subcommand(Command::new("check-config").about("Print the settings in effect and what is wrong with them"))
}

fn sources(matches: &ArgMatches) -> Sources {
    // The innermost subcommand holds the global arguments.
    let matches = matches.subcommand().map_or(matches, |(_, inner)| inner);
    Sources {
        file: matches.get_one::<String>("config").map(PathBuf::from),
        environment: std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags: matches
            .get_many::<String>("set")
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
    }
}

/// Prints the usage error; or help or the version, which are regular output.
fn exit_for(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if error.use_stderr() {
        ExitCode::from(USAGE_ERROR)
    } else {
        printed.map_or_else(|error| output_error(&error), |()| flush_stdout())
    }
}

/// Success if all output was written. A full disk is a failure; a closed pipe is not.
fn flush_stdout() -> ExitCode {
    match std::io::stdout().flush() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output_error(&error),
    }
}

fn output_error(error: &std::io::Error) -> ExitCode {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    print_error(&format!("error: the output cannot be written: {error}"));
    ExitCode::FAILURE
}

/// Standard error may be closed.
fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn check_config<S: Settings>(effective: &Effective<S>) -> ExitCode {
    let printed = write!(std::io::stdout(), "{effective}");
    let mut violations = effective.violations().clone();
    violations.extend(telemetry::check_environment());
    if violations.is_empty() {
        return printed.map_or_else(|error| output_error(&error), |()| flush_stdout());
    }
    print_violations(&violations);
    ExitCode::from(USAGE_ERROR)
}

/// The settings, unless they or the `OTEL_*` variables are invalid.
fn with_telemetry<S>(settings: Result<S, Violations>) -> Result<S, Violations> {
    let found = telemetry::check_environment();
    match settings {
        Ok(settings) => found.into_result().map(|()| settings),
        Err(mut violations) => {
            violations.extend(found);
            Err(violations)
        }
    }
}

fn print_violations(violations: &Violations) {
    print_error("the configuration is wrong:");
    for violation in violations.iter() {
        print_error(&format!("  {}: {}", violation.field, violation.description));
    }
}

fn with_settings<S: Settings>(
    settings: Result<S, Violations>,
    action: impl FnOnce(S) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    let settings = match settings {
        Ok(settings) => settings,
        Err(violations) => {
            print_violations(&violations);
            return ExitCode::from(USAGE_ERROR);
        }
    };
    match action(settings) {
        Ok(code) => code,
        Err(error) => {
            print_error(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn migrate<S: Service>(settings: &S::Settings) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for set in postgres::migrate(settings.sections().database, S::migrations()).await? {
            if let Err(error) = writeln!(std::io::stdout(), "{set}") {
                return Ok(output_error(&error));
            }
        }
        Ok(flush_stdout())
    })
}

fn serve<S: Service>(settings: S::Settings) -> anyhow::Result<ExitCode> {
    // Dropped last, also after a panic: it then writes the remaining lines.
    let writer = LogWriter::stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run_process::<S>(settings, &writer));
    // Blocking work that hangs, such as a name lookup, must not delay the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Runs the process from the first log line to the last flush, and logs its failure.
async fn run_process<S: Service>(settings: S::Settings, writer: &LogWriter) -> anyhow::Result<ExitCode> {
    let telemetry = telemetry::start(S::NAME, settings.sections().telemetry, writer)?;
    let process = settings.sections().process(S::NAME)?;
    let grace = process.settings.drain.grace();
    tracing::info!(service.version = build(), "starting");
    stop_on_signals(&process)?;
    let dropped_lines = writer.dropped_lines().clone();
    drop(process.tasks.run(dropped_lines.report(process.shutdown.clone())));
    process.tasks.run(postgres::watch_schema(
        process.clone(),
        settings.sections().database.clone(),
        S::migrations(),
    ));

    let served = S::serve(settings, process.clone()).await;

    // The service may have stopped by itself; the rest of the process must stop too.
    process.shutdown.cancel();
    process.drained.cancel();
    if !process.tasks.finished_within(grace).await {
        tracing::warn!(
            tasks.running = process.tasks.running(),
            "stopping with unfinished tasks"
        );
    }
    let outcome = match (served, process.tasks.failure()) {
        (Err(error), _) => Err(error),
        (Ok(()), Some(failure)) => Err(anyhow::anyhow!("{failure}")),
        (Ok(()), None) => Ok(()),
    };
    let code = match outcome {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error.message = format!("{error:#}"), "stopped by a failure");
            ExitCode::FAILURE
        }
    };
    telemetry.flush().await;
    Ok(code)
}

fn stop_on_signals(process: &Process) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = process.shutdown.clone();
    process.tasks.spawn("signals", async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = shutdown.cancelled() => return Ok(()),
        };
        tracing::info!(signal = name, "stopping");
        shutdown.cancel();
        Ok(())
    });
    Ok(())
}

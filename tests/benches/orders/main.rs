//! Throughput of the whole system in orders a second, and the cost of one order: `make bench-orders`.
//!
//! The load uses the public gRPC API of a system that `weft up` starts from release binaries. docs/performance.md
//! explains each figure.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};

mod machine;
mod release;
mod system;

mod load;
mod requests;

mod completion;
mod counters;

mod report;
mod runs;
mod search;

use requests::Kind;

/// Measures how many orders a second the system carries, and what one costs.
///
/// Refuses to start unless everything is as durable as in production, the binaries are release builds, and nothing
/// else uses the machine. A run fails unless every order is settled within five seconds after its load. Exit code 1:
/// a run has failed.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench-orders")]
struct Arguments {
    /// What is ordered; several are measured one after the other, each on a fresh system
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Insured])]
    orders: Vec<Kind>,
    /// How many facilities order, the first ones more often (Zipf); several counts as above
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1000), default_values_t = [10])]
    facilities: Vec<u16>,
    /// Closed loop: so many callers, each with one request at a time. Open loop: the search for the highest rate, and
    /// holding it. By default both, with --against the closed loop alone
    #[arg(long, value_enum, value_delimiter = ',')]
    runs: Vec<Loop>,
    /// The callers of the closed loop [default: 1,16,64,256]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    in_flight: Vec<u32>,
    /// Connections of the load generator, at least 4
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(4..=64))]
    connections: u16,
    /// The load before each measurement [default: 20s]
    #[arg(long, value_parser = duration)]
    warm_up: Option<Duration>,
    /// How long each measurement takes [default: 60s]
    #[arg(long, value_parser = duration)]
    measure: Option<Duration>,
    /// How long the rate that was found is held [default: 10m]
    #[arg(long, value_parser = duration)]
    hold: Option<Duration>,
    /// Which p95 of PlaceOrder a rate has to keep
    #[arg(long, value_parser = duration, default_value = "200ms")]
    limit: Duration,
    /// Where the search for the rate begins, in orders a second
    #[arg(long, default_value_t = 50.0)]
    start_rate: f64,
    /// The search ends when the lowest rate that failed is at most so many times the highest that held
    #[arg(long, default_value_t = 1.08)]
    precision: f64,
    /// Short phases, to try the bench out: 3 s of warm-up, 8 s of measuring, 20 s of holding, and 1 and 64 callers,
    /// where nothing else is said. Its figures are worth nothing
    #[arg(long)]
    quick: bool,
    /// Another checkout with a release build, or a folder of release binaries, that is measured in turns with ours
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// How often everything is measured; the medians count [default: 1, with --against 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: Option<u16>,
    /// The release binaries to measure [default: those of this checkout]
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Appends one line of JSON for each run
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the systems live while they are measured: on the disk that is meant
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// Keeps the systems' folders, with their logs
    #[arg(long)]
    keep: bool,
    /// Measures although other processes use the machine; the report says so
    #[arg(long)]
    allow_busy: bool,
    /// Cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Loop {
    Closed,
    Open,
}

impl Arguments {
    /// Fills in what depends on other options.
    fn complete(mut self) -> Arguments {
        if self.runs.is_empty() {
            self.runs = match self.against {
                Some(_) => vec![Loop::Closed],
                None => vec![Loop::Closed, Loop::Open],
            };
        }
        if self.in_flight.is_empty() {
            self.in_flight = if self.quick {
                vec![1, 64]
            } else {
                vec![1, 16, 64, 256]
            };
        }
        let seconds = |quick, long| Some(Duration::from_secs(if self.quick { quick } else { long }));
        self.warm_up = self.warm_up.or(seconds(3, 20));
        self.measure = self.measure.or(seconds(8, 60));
        self.hold = self.hold.or(seconds(20, 600));
        self.rounds = self.rounds.or(Some(if self.against.is_some() { 3 } else { 1 }));
        self
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match runs::all(Arguments::parse().complete()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-orders: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Reads `200ms`, `90s` or `10m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let number: u64 = digits
        .parse()
        .map_err(|_| "must be a number with ms, s or m".to_owned())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        _ => Err("must end with ms, s or m".to_owned()),
    }
}

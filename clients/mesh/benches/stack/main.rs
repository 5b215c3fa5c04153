//! The cost of the mesh: bare tonic, the full stack without TLS and with mutual TLS, and with its metrics
//! collected, in one run. Spans are not recorded.
//!
//! Client and server share the process and its processors, so that only ratios of one run are meaningful. The
//! variants take turns in each round, and medians are printed, so that temporary load of the machine affects all
//! of them alike. Run it with `cargo bench -p mesh`; `-- SECONDS` sets how long each measurement of a round lasts
//! (default 1).

#![allow(clippy::unwrap_used, reason = "a measurement that cannot set up has failed")]

mod certificates;
mod idle;
mod measure;
mod server;

use std::time::Duration;

use certificates::Certificates;
use measure::{Figures, streamed, unary};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use server::{READ, WATCH};
use tonic::transport::Endpoint;
use weft_mesh::{Channel, ChannelOptions, MethodPolicy, Policies, policy::Idempotency};

const ROUNDS: usize = 7;
const NAMES: [&str; 4] = ["bare tonic", "mesh", "mesh, mTLS", "mesh, metrics"];

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(1.0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(Duration::from_secs_f64(seconds)));
}

async fn run(lasting: Duration) {
    let certificates = Certificates::new();
    let plain = server::start(None).await;
    let secured = server::start(Some(certificates.server())).await;
    let bare = Endpoint::from_shared(format!("http://{plain}"))
        .unwrap()
        .tcp_nodelay(true)
        .connect()
        .await
        .unwrap();
    let full = channel(format!("static:http://{plain}"), None);
    let mutual = channel(format!("static:https://{secured}"), Some(certificates.client()));
    // A channel uses the meter provider that is installed when it is created.
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default()).build();
    let meters = SdkMeterProvider::builder().with_reader(reader).build();
    opentelemetry::global::set_meter_provider(meters);
    let measured = channel(format!("static:http://{plain}"), None);

    for (title, in_flight) in [("unary, 1 in flight", 1), ("unary, 64 in flight", 64)] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push([
                unary(&bare, in_flight, lasting).await,
                unary(&full, in_flight, lasting).await,
                unary(&mutual, in_flight, lasting).await,
                unary(&measured, in_flight, lasting).await,
            ]);
        }
        print(title, "call", &rounds);
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push([
            streamed(&bare, lasting).await,
            streamed(&full, lasting).await,
            streamed(&mutual, lasting).await,
            streamed(&measured, lasting).await,
        ]);
    }
    print("server stream of 100 messages", "stream", &rounds);
    idle::print(lasting * 5).await;
}

fn channel(target: String, tls: Option<weft_mesh::Tls>) -> Channel {
    let read = MethodPolicy {
        idempotency: Idempotency::NoSideEffects,
        ..MethodPolicy::new(Duration::from_secs(5))
    };
    let watch = MethodPolicy {
        server_streaming: true,
        ..read.clone()
    };
    let policies = Policies::from_methods([(READ.to_owned(), read), (WATCH.to_owned(), watch)]);
    let mut options = ChannelOptions::new(target, "echo", "bench");
    options.tuning.tls = tls;
    Channel::connect(options, &policies).unwrap()
}

fn print(title: &str, unit: &str, rounds: &[[Figures; 4]]) {
    println!("\n{title}");
    println!(
        "{:<14} {:>12} {:>14} {:>10} {:>10} {:>12}   ratios to bare: cpu, p50, p99",
        "",
        format!("{unit}s/s"),
        format!("cpu us/{unit}"),
        "p50 us",
        "p99 us",
        "allocations",
    );
    for (place, name) in NAMES.into_iter().enumerate() {
        let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(|round| figure(&round[place])));
        // Computed for each round, in which the load of the machine is the same for both.
        let ratio = |figure: fn(&Figures) -> f64| {
            median(
                rounds
                    .iter()
                    .map(|round| figure(&round[place]) / figure(&round[0])),
            )
        };
        println!(
            "{name:<14} {:>12.0} {:>14.1} {:>10.0} {:>10.0} {:>12.1}   {:.2} {:.2} {:.2}",
            of(|figures| figures.rate),
            of(|figures| figures.cpu_us),
            of(|figures| figures.p50_us),
            of(|figures| figures.p99_us),
            of(|figures| figures.allocations),
            ratio(|figures| figures.cpu_us),
            ratio(|figures| figures.p50_us),
            ratio(|figures| figures.p99_us),
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

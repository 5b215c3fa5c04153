//! What the mesh costs: bare tonic, the full stack without TLS and with mutual TLS, in one run.
//!
//! Client and server share the process and its processors, so that only ratios of one run mean anything. Run it with
//! `cargo bench -p mesh`; `-- SECONDS` sets how long each measurement lasts (default 3).

#![allow(clippy::unwrap_used, reason = "a measurement that cannot set up has failed")]

mod certificates;
mod measure;
mod server;

use std::time::Duration;

use certificates::Certificates;
use measure::{Figures, streamed, unary};
use mesh::{Channel, ChannelOptions, MethodPolicy, Policies, policy::Idempotency};
use server::{READ, WATCH};
use tonic::transport::Endpoint;

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(3.0);
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

    for (title, in_flight) in [("unary, 1 in flight", 1), ("unary, 64 in flight", 64)] {
        let figures = [
            unary(&bare, in_flight, lasting).await,
            unary(&full, in_flight, lasting).await,
            unary(&mutual, in_flight, lasting).await,
        ];
        print(title, "call", &figures);
    }
    let figures = [
        streamed(&bare, lasting).await,
        streamed(&full, lasting).await,
        streamed(&mutual, lasting).await,
    ];
    print("server stream of 100 messages", "stream", &figures);
}

fn channel(target: String, tls: Option<mesh::Tls>) -> Channel {
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

fn print(title: &str, unit: &str, figures: &[Figures; 3]) {
    println!("\n{title}");
    println!(
        "{:<12} {:>12} {:>14} {:>10} {:>10}   ratios to bare: cpu, p50, p99",
        "",
        format!("{unit}s/s"),
        format!("cpu us/{unit}"),
        "p50 us",
        "p99 us"
    );
    for (name, figure) in ["bare tonic", "mesh", "mesh, mTLS"].into_iter().zip(figures) {
        let bare = &figures[0];
        println!(
            "{name:<12} {:>12.0} {:>14.1} {:>10.0} {:>10.0}   {:.2} {:.2} {:.2}",
            figure.rate,
            figure.cpu_us,
            figure.p50_us,
            figure.p99_us,
            figure.cpu_us / bare.cpu_us,
            figure.p50_us / bare.p50_us,
            figure.p99_us / bare.p99_us,
        );
    }
}

//! Throughput and latency of the event backbone: `cargo bench -p tests --bench events [-- NAME…]`.
//!
//! PostgreSQL and NATS are real and sync every write, as in production. They share the machine with the bench, so
//! compare figures of one run with each other, not with another machine's.

#![allow(clippy::unwrap_used)]

use tokio_util::sync::CancellationToken;

mod end_to_end;
mod environment;
mod outbox_overhead;
mod publishing;

#[tokio::main]
async fn main() {
    // Cargo passes `--bench`.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if runs("batches") {
        publishing::batches_against_singles().await;
    }
    if runs("relay") {
        publishing::relay().await;
    }
    if runs("flow") {
        end_to_end::commit_to_effect().await;
    }
    if runs("business") {
        outbox_overhead::with_and_without_the_outbox().await;
    }
}

/// Cancels its token when it is dropped.
struct Stop(CancellationToken);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The median.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

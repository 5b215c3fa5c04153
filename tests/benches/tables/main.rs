//! Latency of every list of every service, on tables of ten thousand rows and of many more.
//!
//! `make bench-tables`, or `cargo bench -p tests --bench tables -- ROWS` (default 10,000,000; the largest table
//! has three times as many, and ten million need about 30 GB of disk for a while).

use std::time::{Duration, Instant};

use tests::{Durability, Options, Service, Stack, eventually, tables};

const SMALL: u64 = 10_000;
const LARGE: u64 = 10_000_000;
const TIMES: usize = 100;
/// Long enough to fold 30 million ledger entries.
const FOLDED: Duration = Duration::from_secs(1_800);

#[tokio::main]
async fn main() {
    let given = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let large: u64 = given.unwrap_or(LARGE);
    println!("medians of {TIMES} calls (p95), each with the page after the first where there is one");
    for service in Service::ALL {
        let (few, many) = (measure(service, SMALL).await, measure(service, large).await);
        for ((name, few), (_, many)) in few.iter().zip(&many) {
            println!(
                "{service:8} {name:60} {SMALL} rows {:7.2} ms ({:.2})   {large} rows {:7.2} ms ({:.2})   ratio {:.2}",
                ms(few.0),
                ms(few.1),
                ms(many.0),
                ms(many.1),
                many.0.as_secs_f64() / few.0.as_secs_f64(),
            );
        }
    }
}

type Quantiles = (Duration, Duration);

async fn measure(service: Service, rows: u64) -> Vec<(String, Quantiles)> {
    let stack = Stack::with(Options::default().own_postgres(Durability::Fast).only(&[service])).await;
    stack.stop(service).await;
    let began = Instant::now();
    let database = stack.database(service);
    tables::fill(database, service, rows).await;
    eprintln!("{service}: {rows} rows in {:.0?}", began.elapsed());
    stack.restart(service).await;
    if service == Service::Payment {
        let folded =
            "select folded_to - (select max(id) from payment.ledger_entry) from payment.ledger_folded";
        eventually(FOLDED, || async { database.count(folded).await == 0 }).await;
        eprintln!("{service}: folded after {:.0?}", began.elapsed());
    }
    let mut measured = Vec::new();
    for call in tables::calls(&stack, service) {
        let mut times = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let began = Instant::now();
            call.run()
                .await
                .unwrap_or_else(|status| panic!("{}: {status}", call.name));
            times.push(began.elapsed());
        }
        times.sort_unstable();
        measured.push((call.name, (times[TIMES / 2], times[TIMES * 95 / 100])));
    }
    measured
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

//! From the outbox to the broker's acknowledgement.

use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap};
use futures_util::StreamExt as _;
use tests::{
    backbone::{SUBJECT, append, event},
    eventually,
};
use uuid::Uuid;

use crate::{environment::Environment, median};

const BATCH: usize = 500;
const IN_FLIGHT: usize = 4;
const LONG: Duration = Duration::from_secs(300);

/// Measures the broker alone, on two cores with its client: single awaited messages against atomic batches as the
/// relay sends them.
pub(crate) async fn batches_against_singles() {
    let environment = Environment::start().await;
    let client = environment.nats.client().await;
    let (mut singles, mut batches, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let single = rate(1_000, async {
            for _ in 0..1_000 {
                acked(&client, headers()).await;
            }
        })
        .await;
        let batched = rate(40 * BATCH, async {
            let sent = (0..40).map(|_| batch(&client));
            futures_util::stream::iter(sent)
                .buffer_unordered(IN_FLIGHT)
                .collect::<()>()
                .await;
        })
        .await;
        ratios.push(batched / single);
        singles.push(single);
        batches.push(batched);
    }
    println!(
        "batches   single {:.0}/s, in batches of {BATCH} {:.0}/s: {:.1} times (medians of 5 alternating rounds)",
        median(singles),
        median(batches),
        median(ratios),
    );
}

/// Measures one relay that drains a full outbox.
pub(crate) async fn relay() {
    const EVENTS: usize = 50_000;
    const AGGREGATES: usize = 2_000;
    let mut rates = Vec::new();
    for _ in 0..3 {
        let environment = Environment::start().await;
        let aggregates: Vec<_> = (0..AGGREGATES).map(|_| Uuid::new_v4()).collect();
        for version in 1..=(EVENTS / AGGREGATES) as i64 {
            for some in aggregates.chunks(500) {
                let events: Vec<_> = some.iter().map(|id| event(*id, version)).collect();
                append(&environment.pool, &events).await.unwrap();
            }
        }
        let rate = rate(EVENTS, async {
            let _relay = environment.relay();
            eventually(LONG, || async {
                let pending = "select count(*) from (select from events.outbox limit 1) pending";
                environment.database.count(pending).await == 0
            })
            .await;
        })
        .await;
        let jetstream = async_nats::jetstream::new(environment.nats.client().await);
        let stream = jetstream.get_stream("EVENTS").await.unwrap();
        assert_eq!(stream.cached_info().state.messages, EVENTS as u64);
        println!(
            "relay     {rate:.0} events/s, {EVENTS} events from PostgreSQL to acknowledged and filed under its day"
        );
        rates.push(rate);
    }
    println!("relay     median of 3: {:.0} events/s", median(rates));
}

async fn rate(messages: usize, work: impl Future<Output = ()>) -> f64 {
    let start = Instant::now();
    work.await;
    messages as f64 / start.elapsed().as_secs_f64()
}

async fn batch(client: &Client) {
    let id = Uuid::new_v4().to_string();
    let batched = |sequence: usize| {
        let mut headers = headers();
        headers.insert("Nats-Batch-Id", id.as_str());
        headers.insert("Nats-Batch-Sequence", sequence.to_string());
        headers
    };
    for sequence in 1..BATCH {
        let published = client.publish_with_headers(SUBJECT, batched(sequence), body());
        published.await.unwrap();
    }
    let mut last = batched(BATCH);
    last.insert("Nats-Batch-Commit", "1");
    acked(client, last).await;
}

async fn acked(client: &Client, headers: HeaderMap) {
    let answer = client
        .request_with_headers(SUBJECT, headers, body())
        .await
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
}

/// The headers of an event, in the number and size that the relay sends.
fn headers() -> HeaderMap {
    let id = Uuid::now_v7().to_string();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.as_str());
    for name in ["ce-id", "ce-subject", "ce-partitionkey", "ce-correlationid"] {
        headers.insert(name, id.as_str());
    }
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-source", "/weft/order"),
        ("ce-type", "order.v1.OrderConfirmed"),
        ("ce-time", "2026-11-22T12:00:00.123456789Z"),
        ("ce-datacontenttype", "application/protobuf"),
        ("ce-sequence", "1"),
        ("ce-aggregate", "order"),
        ("ce-facility", "al-noor"),
    ] {
        headers.insert(name, value);
    }
    headers
}

fn body() -> bytes::Bytes {
    event(Uuid::nil(), 1).body.into()
}

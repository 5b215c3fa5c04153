//! From rows to acknowledged messages: atomic batches (ADR-50), and one by one where a batch is refused.

use std::collections::HashSet;

use async_nats::{HeaderMap, HeaderValue};
use serde::Deserialize;
use tracing::Span;

use super::Pending;
use crate::{Bus, Error, trace};

/// A batch holds a message id that the broker already has: it was published before, and its deletion here was lost.
const DUPLICATE_IN_BATCH: u64 = 10201;

/// What the broker answers to a publish.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// A row on its way, and the span of its publication.
struct Outgoing<'a> {
    row: &'a Pending,
    span: Span,
}

/// Publishes in order. Returns the ids of the rows that the broker has acknowledged, and the first failure.
pub(super) async fn all(bus: &Bus, pending: &[Pending]) -> (Vec<i64>, Option<Error>) {
    // A batch belongs to one stream. Nothing orders a dead letter's copy against events.
    let (copies, events): (Vec<_>, Vec<_>) = pending
        .iter()
        .map(Outgoing::new)
        .partition(|outgoing| outgoing.row.subject.starts_with("dlq."));
    let mut published = Vec::with_capacity(pending.len());
    let mut failure = None;
    for rows in [events, copies] {
        match batch(bus, &rows).await {
            Ok(None) => published.extend(rows.iter().map(|outgoing| outgoing.row.id)),
            Ok(Some(refusal)) => {
                if refusal.err_code != DUPLICATE_IN_BATCH {
                    tracing::warn!(
                        error = refusal.description,
                        "the broker refused a batch; publishing singly"
                    );
                }
                failure = singly(bus, &rows, &mut published).await.or(failure);
            }
            Err(error) => failure = Some(error),
        }
    }
    (published, failure)
}

impl<'a> Outgoing<'a> {
    /// What did not happen in a trace is published without a span.
    fn new(row: &'a Pending) -> Self {
        let parent = row.header("traceparent");
        let span = if parent.is_empty() {
            Span::none()
        } else {
            tracing::info_span!(
                "publish",
                otel.name = format!("publish {}", row.subject),
                otel.kind = "producer",
                messaging.system = "nats",
                messaging.operation.name = "publish",
                messaging.operation.type = "send",
                messaging.destination.name = row.subject,
                messaging.message.id = row.message_id,
            )
        };
        trace::hang_below(&span, parent);
        Self { row, span }
    }
}

impl Pending {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// All or nothing. An error leaves open whether the broker has stored the batch.
async fn batch(bus: &Bus, rows: &[Outgoing<'_>]) -> Result<Option<Refusal>, Error> {
    let Some((last, before)) = rows.split_last() else {
        return Ok(None);
    };
    if before.is_empty() {
        return single(bus, last).await;
    }
    let batch_id = uuid::Uuid::new_v4().to_string();
    for (index, outgoing) in before.iter().enumerate() {
        let row = outgoing.row;
        let mut headers = headers(bus, outgoing);
        headers.insert("Nats-Batch-Id", batch_id.as_str());
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        let body = row.body.clone();
        bus.client()
            .publish_with_headers(row.subject.clone(), headers, body)
            .await
            .map_err(Error::broker)?;
    }
    let mut headers = headers(bus, last);
    headers.insert("Nats-Batch-Id", batch_id.as_str());
    headers.insert("Nats-Batch-Sequence", rows.len().to_string());
    headers.insert("Nats-Batch-Commit", "1");
    request(bus, last.row, headers).await
}

/// One after the other. A failed row holds back the rest of its lane, and no other lane.
async fn singly(bus: &Bus, rows: &[Outgoing<'_>], published: &mut Vec<i64>) -> Option<Error> {
    let mut held = HashSet::new();
    let mut failure = None;
    for outgoing in rows {
        let row = outgoing.row;
        if held.contains(&row.lane) {
            continue;
        }
        let error = match single(bus, outgoing).await {
            Ok(None) => {
                published.push(row.id);
                continue;
            }
            Ok(Some(refusal)) => {
                Error::Broker(format!("{} was refused: {}", row.message_id, refusal.description))
            }
            // The broker is away: the other rows would only wait for the same time-out.
            Err(error) => return Some(error),
        };
        held.insert(row.lane);
        failure.get_or_insert(error);
    }
    failure
}

async fn single(bus: &Bus, outgoing: &Outgoing<'_>) -> Result<Option<Refusal>, Error> {
    request(bus, outgoing.row, headers(bus, outgoing)).await
}

async fn request(bus: &Bus, row: &Pending, headers: HeaderMap) -> Result<Option<Refusal>, Error> {
    let body = row.body.clone();
    let answer = bus
        .client()
        .request_with_headers(row.subject.clone(), headers, body)
        .await;
    let answer = answer.map_err(Error::broker)?;
    let answer: Answer = serde_json::from_slice(&answer.payload).map_err(Error::broker)?;
    Ok(answer.error)
}

fn headers(bus: &Bus, outgoing: &Outgoing<'_>) -> HeaderMap {
    let row = outgoing.row;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", row.message_id.as_str());
    // What is published again keeps the source it came with.
    headers.insert("ce-source", format!("/weft/{}", bus.service()));
    for (name, value) in &row.headers {
        headers.insert(name.as_str(), header_value(value));
    }
    // What is consumed hangs below its publication.
    let traceparent = trace::traceparent(&outgoing.span);
    if !traceparent.is_empty() {
        headers.insert("traceparent", traceparent);
    }
    headers
}

/// A header is one line; an error message may not be.
fn header_value(text: &str) -> HeaderValue {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.parse().unwrap_or_else(|_| HeaderValue::new())
}

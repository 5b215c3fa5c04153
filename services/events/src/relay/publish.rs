//! Publishes rows: in atomic batches (ADR-50); individually where there are few; one after the other where a batch
//! is refused or a row may be.

use std::{collections::HashSet, time::Duration};

use async_nats::client::RequestErrorKind;
use futures_util::future::join_all;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Pending,
    outgoing::{Outgoing, Size},
};
use crate::{Bus, Error, limits};

/// A batch has a message id that the broker already has: it was published before, and its row was not deleted.
const DUPLICATE_IN_BATCH: u64 = 10201;

/// Errors of class 400 that concern the stream or the account and not the message: the account's limits are
/// reached, another stream is expected, the stream is sealed.
const STREAM_OR_ACCOUNT_ERRORS: [u64; 3] = [10002, 10060, 10109];

/// The message is larger than the stream's `max_msg_size`, or its headers are larger than 64 KiB.
const TOO_LARGE_ERRORS: [u64; 2] = [10054, 10097];

/// The fewest messages for an atomic batch. Fewer cost less when published individually: the broker stages every
/// batch in a store of its own, which takes some 3 ms whatever its size.
const MIN_ATOMIC_BATCH: usize = 12;

/// The broker's response to a publish.
#[derive(Deserialize)]
struct PublishAck {
    error: Option<BrokerError>,
}

#[derive(Deserialize)]
struct BrokerError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Why the broker refuses a message, independent of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    TooLarge,
    Refused,
    NotPermitted,
}

/// A row that the broker refuses for a reason of its own.
pub(super) struct Refused {
    pub(super) position: i64,
    pub(super) size: usize,
    pub(super) code: Code,
    pub(super) reason: String,
}

/// The results of publishing rows. Rows in neither list were not tried, or their outcome is unknown.
#[derive(Default)]
pub(super) struct Summary {
    pub(super) acknowledged: Vec<i64>,
    pub(super) refused: Vec<Refused>,
    /// The aggregates of the refused rows. Their later events wait.
    held: HashSet<Uuid>,
    pub(super) failure: Option<Error>,
}

impl Summary {
    /// Whether a row may still be sent. An aggregate's events go in their order, and when the broker is
    /// unavailable or full, other rows would fail too.
    fn may_publish(&self, row: &Pending) -> bool {
        self.failure.is_none() && !(row.is_event && self.held.contains(&row.aggregate_id))
    }

    fn record(&mut self, outgoing: &Outgoing<'_>, outcome: Result<Outcome, Error>) {
        match outcome {
            Ok(Outcome::Acknowledged) => self.acknowledged.push(outgoing.row.id),
            Ok(Outcome::Refused(code, reason)) => {
                self.held.insert(outgoing.row.aggregate_id);
                self.refused.push(Refused {
                    position: outgoing.row.id,
                    size: outgoing.bytes(),
                    code,
                    reason,
                });
            }
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }
}

/// The outcome of one message.
enum Outcome {
    Acknowledged,
    Refused(Code, String),
}

impl Code {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "TOO_LARGE",
            Self::Refused => "REFUSED",
            Self::NotPermitted => "NOT_PERMITTED",
        }
    }
}

/// Publishes in order within each aggregate.
pub(super) async fn publish_all(bus: &Bus, pending: &[Pending]) -> Summary {
    let mut summary = Summary::default();
    refresh_payload_limit(bus, pending).await;
    let limit = bus.client().max_payload();
    // A batch belongs to one stream. Dead letters' copies have no order relative to events.
    let (copies, events): (Vec<_>, Vec<_>) = pending
        .iter()
        .map(|row| Outgoing::new(bus, row, limit))
        .partition(|outgoing| outgoing.row.is_copy());
    for rows in [events, copies] {
        let (batchable, doubtful) = split_doubtful(bus, rows, limit);
        if batchable.len() < MIN_ATOMIC_BATCH {
            publish_pipelined(bus, batchable, limit, &mut summary).await;
            publish_sequentially(bus, &doubtful, limit, &mut summary).await;
            continue;
        }
        match publish_batch(bus, &batchable).await {
            Ok(None) => {
                let positions = batchable.iter().map(|outgoing| outgoing.row.id);
                summary.acknowledged.extend(positions);
                publish_sequentially(bus, &doubtful, limit, &mut summary).await;
            }
            Ok(Some(broker_error)) => {
                if broker_error.err_code != DUPLICATE_IN_BATCH {
                    tracing::warn!(
                        error = broker_error.description,
                        "the broker refused a batch; its messages are published individually"
                    );
                }
                // In their order: an aggregate's doubtful rows come after its others.
                publish_sequentially(bus, &batchable, limit, &mut summary).await;
                publish_sequentially(bus, &doubtful, limit, &mut summary).await;
            }
            Err(_) if batchable.iter().any(|outgoing| is_recently_denied(bus, outgoing)) => {
                publish_sequentially(bus, &batchable, limit, &mut summary).await;
                publish_sequentially(bus, &doubtful, limit, &mut summary).await;
            }
            Err(error) => summary.failure = Some(error),
        }
    }
    summary
}

/// Checks whether the server's limit has changed, when a held message is retried.
async fn refresh_payload_limit(bus: &Bus, pending: &[Pending]) {
    if pending.iter().all(|row| row.attempts == 0) {
        return;
    }
    let client = bus.client();
    let known = client.max_payload();
    if let Some(limit) = limits::max_payload(&bus.settings().servers).await
        && limit != known
    {
        tracing::info!(known, limit, "the broker's max_payload has changed; reconnecting");
        if client.force_reconnect().await.is_ok() {
            let renewed = async {
                while client.max_payload() != limit {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(2), renewed).await;
        }
    }
}

/// Separates the rows that could make the broker refuse a batch, and later events of their aggregates, from the
/// others.
fn split_doubtful<'a>(
    bus: &Bus,
    rows: Vec<Outgoing<'a>>,
    limit: usize,
) -> (Vec<Outgoing<'a>>, Vec<Outgoing<'a>>) {
    let mut blocked = HashSet::new();
    rows.into_iter().partition(|outgoing| {
        let row = outgoing.row;
        let doubtful = row.attempts > 0
            || outgoing.size(limit) != Size::Batched
            || is_recently_denied(bus, outgoing)
            || (row.is_event && blocked.contains(&row.aggregate_id));
        if doubtful && row.is_event {
            blocked.insert(row.aggregate_id);
        }
        !doubtful
    })
}

fn is_recently_denied(bus: &Bus, outgoing: &Outgoing<'_>) -> bool {
    let window = Duration::from_millis(bus.settings().relay.held_retry_ms);
    bus.denied_subjects().is_denied(&outgoing.row.subject, window)
}

/// Publishes all rows or none. After an error it is unknown whether the broker has stored the batch.
async fn publish_batch(bus: &Bus, rows: &[Outgoing<'_>]) -> Result<Option<BrokerError>, Error> {
    let Some((last, before)) = rows.split_last() else {
        return Ok(None);
    };
    let batch_id = Uuid::new_v4().to_string();
    for (index, outgoing) in before.iter().enumerate() {
        let mut headers = outgoing.headers.clone();
        headers.insert("Nats-Batch-Id", batch_id.as_str());
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        bus.client()
            .publish_with_headers(outgoing.row.subject.clone(), headers, outgoing.body.clone())
            .await
            .map_err(Error::broker)?;
    }
    let mut headers = last.headers.clone();
    headers.insert("Nats-Batch-Id", batch_id.as_str());
    headers.insert("Nats-Batch-Sequence", rows.len().to_string());
    headers.insert("Nats-Batch-Commit", "1");
    request(bus, last, headers).await
}

/// Publishes individually and concurrently, except for events of one aggregate: each is sent only when the broker
/// has the one before it.
async fn publish_pipelined(bus: &Bus, mut rows: Vec<Outgoing<'_>>, limit: usize, summary: &mut Summary) {
    loop {
        rows.retain(|outgoing| summary.may_publish(outgoing.row));
        if rows.is_empty() {
            return;
        }
        let mut started = HashSet::new();
        let (first, later): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|outgoing| !outgoing.row.is_event || started.insert(outgoing.row.aggregate_id));
        let outcomes = first.iter().map(|outgoing| publish_one(bus, outgoing, limit));
        for (outgoing, outcome) in first.iter().zip(join_all(outcomes).await) {
            summary.record(outgoing, outcome);
        }
        rows = later;
    }
}

/// Publishes one after the other. A refused row holds back only the later events of its aggregate.
async fn publish_sequentially(bus: &Bus, rows: &[Outgoing<'_>], limit: usize, summary: &mut Summary) {
    for outgoing in rows {
        if summary.may_publish(outgoing.row) {
            let outcome = publish_one(bus, outgoing, limit).await;
            summary.record(outgoing, outcome);
        }
    }
}

async fn publish_one(bus: &Bus, outgoing: &Outgoing<'_>, limit: usize) -> Result<Outcome, Error> {
    if let Size::TooLarge(reason) = outgoing.size(limit) {
        return Ok(Outcome::Refused(Code::TooLarge, reason));
    }
    let not_permitted = || {
        let subject = &outgoing.row.subject;
        Outcome::Refused(
            Code::NotPermitted,
            format!("the broker's permissions forbid {subject}"),
        )
    };
    // A message that was held before is tried, which shows whether the subject is allowed now.
    if outgoing.row.attempts == 0 && is_recently_denied(bus, outgoing) {
        return Ok(not_permitted());
    }
    let ack = tokio::select! {
        ack = request_single(bus, outgoing) => ack?,
        () = bus.denied_subjects().denied(&outgoing.row.subject) => return Ok(not_permitted()),
    };
    match ack {
        None => {
            bus.denied_subjects().clear(&outgoing.row.subject);
            Ok(Outcome::Acknowledged)
        }
        Some(broker_error)
            if broker_error.code == 400 && !STREAM_OR_ACCOUNT_ERRORS.contains(&broker_error.err_code) =>
        {
            let code = if TOO_LARGE_ERRORS.contains(&broker_error.err_code) {
                Code::TooLarge
            } else {
                Code::Refused
            };
            Ok(Outcome::Refused(code, broker_error.description))
        }
        Some(broker_error) => Err(Error::Broker(format!(
            "{} was refused: {}",
            outgoing.row.message_id, broker_error.description
        ))),
    }
}

async fn request_single(bus: &Bus, outgoing: &Outgoing<'_>) -> Result<Option<BrokerError>, Error> {
    request(bus, outgoing, outgoing.headers.clone()).await
}

async fn request(
    bus: &Bus,
    outgoing: &Outgoing<'_>,
    headers: async_nats::HeaderMap,
) -> Result<Option<BrokerError>, Error> {
    let sent = bus
        .client()
        .request_with_headers(outgoing.row.subject.clone(), headers, outgoing.body.clone())
        .await;
    let ack = match sent {
        Ok(ack) => ack,
        Err(error) => {
            if error.kind() == RequestErrorKind::NoResponders {
                // The stream is missing: it is created again, and the log is published into it.
                bus.request_stream_check();
            }
            return Err(Error::broker(error));
        }
    };
    let ack: PublishAck = serde_json::from_slice(&ack.payload).map_err(Error::broker)?;
    Ok(ack.error)
}

//! The fallback for `max_deliver`: a message that the broker stopped delivering is sent to its consumer again. Its
//! recorded failures keep counting until it takes effect or becomes a dead letter.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use futures_util::StreamExt as _;
use serde::Deserialize;
use sqlx::PgPool;

use crate::{
    Bus, Error,
    envelope::{Envelope, SEQUENCE, STREAM},
    outbox::{Notice, notify},
    stored_message, streams,
};

const SUBJECT: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS";

#[derive(Deserialize)]
struct MaxDeliveries {
    consumer: String,
    stream_seq: u64,
}

/// Processes the pending advisories for this service's consumers.
pub(super) async fn process(bus: &Bus, pool: &PgPool) -> Result<(), Error> {
    let consumers = sqlx::query_scalar!("select name from events.consumer order by name")
        .fetch_all(pool)
        .await?;
    if consumers.is_empty() || !bus.is_ready() {
        return Ok(());
    }
    let config = pull::Config {
        durable_name: Some(format!("advisories-{}", bus.service())),
        ack_policy: AckPolicy::Explicit,
        filter_subjects: consumers
            .iter()
            .map(|consumer| format!("{SUBJECT}.{consumer}"))
            .collect(),
        ..pull::Config::default()
    };
    let jetstream = bus.jetstream();
    let consumer: PullConsumer = jetstream
        .create_consumer_on_stream(config, streams::ADVISORIES)
        .await
        .map_err(Error::broker)?;
    let wait = Duration::from_millis(500);
    let fetched = consumer.fetch().max_messages(100).expires(wait).messages().await;
    let mut messages = fetched.map_err(Error::broker)?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(Error::broker)?;
        // A malformed advisory is ignored; it stays in the stream for operators.
        if let Ok(advisory) = serde_json::from_slice::<MaxDeliveries>(&message.payload) {
            resend(bus, pool, &advisory).await?;
        }
        message.ack().await.map_err(Error::broker)?;
    }
    Ok(())
}

async fn resend(bus: &Bus, pool: &PgPool, advisory: &MaxDeliveries) -> Result<(), Error> {
    let jetstream = bus.jetstream();
    let message = stored_message::get(&jetstream, streams::EVENTS, advisory.stream_seq).await?;
    // A message with unreadable headers is removed from the stream by its consumer.
    let Some(message) = message.filter(|message| message.unreadable.is_none()) else {
        return Ok(());
    };
    let mut headers = message.headers;
    let (envelope, _) = match Envelope::parse_reference(&headers) {
        Some(envelope) => (envelope, None),
        None => Envelope::parse_or_placeholder(&headers, streams::EVENTS, advisory.stream_seq),
    };
    headers
        .entry(STREAM.into())
        .or_insert_with(|| streams::EVENTS.into());
    headers
        .entry(SEQUENCE.into())
        .or_insert_with(|| advisory.stream_seq.to_string());
    let notice = Notice {
        message_id: format!("again:{}:{}", advisory.consumer, advisory.stream_seq),
        subject: format!("retry.{}.{}", bus.service(), advisory.consumer),
        aggregate_id: envelope.aggregate_id,
        headers: &headers,
        body: &message.body,
    };
    notify(&mut *pool.acquire().await?, &notice).await?;
    bus.outbox().wake();
    tracing::warn!(
        consumer = advisory.consumer,
        stream.sequence = advisory.stream_seq,
        "the broker stopped delivering an event; it is sent to its consumer again"
    );
    Ok(())
}

//! How far a consumer is behind.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::{
    Context,
    consumer::{Info, PullConsumer},
};
use time::OffsetDateTime;

use crate::{
    Bus,
    stored_message::{self, StoredMessage},
    streams,
};

pub(crate) struct Lag {
    /// Events that have not been delivered to the consumer.
    pub(crate) pending: u64,
    /// Events that were delivered and are not acknowledged.
    pub(crate) unacknowledged: u64,
    /// The age of the oldest of both. `None`: there is none.
    pub(crate) age: Option<Duration>,
    /// Its sequence and its publication time.
    pub(crate) oldest: Option<(u64, Option<OffsetDateTime>)>,
}

/// `None` when the broker has no such consumer, or cannot be reached.
pub(crate) async fn measure(bus: &Bus, consumer: &str) -> Option<Lag> {
    if !bus.is_ready() {
        return None;
    }
    let context = bus.jetstream();
    let found = context.get_consumer_from_stream(consumer, streams::EVENTS).await;
    let consumer: PullConsumer = found.ok()?;
    let info = consumer.cached_info();
    let (pending, unacknowledged) = (info.num_pending, info.num_ack_pending as u64);
    let oldest = if pending + unacknowledged == 0 {
        None
    } else {
        oldest(&context, info).await
    };
    let published = oldest
        .as_ref()
        .and_then(|oldest| oldest.time)
        .map(SystemTime::from);
    let age = published.map(|since| SystemTime::now().duration_since(since).unwrap_or_default());
    Some(Lag {
        pending,
        unacknowledged,
        age,
        oldest: oldest.map(|oldest| (oldest.sequence, oldest.time)),
    })
}

/// The first message after the acknowledgement floor.
async fn oldest(context: &Context, info: &Info) -> Option<StoredMessage> {
    let after = info.ack_floor.stream_sequence + 1;
    let mut first: Option<StoredMessage> = None;
    for subject in &info.config.filter_subjects {
        let next = stored_message::next(context, streams::EVENTS, subject, after).await;
        let Ok(Some(message)) = next else {
            continue;
        };
        if first
            .as_ref()
            .is_none_or(|first| message.sequence < first.sequence)
        {
            first = Some(message);
        }
    }
    first
}

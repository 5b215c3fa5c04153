//! How far a consumer is behind.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::{
    Context,
    consumer::{Info, PullConsumer},
};

use crate::{Bus, streams};

pub(crate) struct Lag {
    /// Events that the consumer has not been given yet.
    pub(crate) pending: u64,
    /// Events that it has in hand.
    pub(crate) unacknowledged: u64,
    /// The age of the oldest of both. `None`: there is none.
    pub(crate) age: Option<Duration>,
}

/// `None` when the broker does not know the consumer, or cannot be asked.
pub(crate) async fn of(bus: &Bus, consumer: &str) -> Option<Lag> {
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
    let age = oldest.map(|since| SystemTime::now().duration_since(since).unwrap_or_default());
    Some(Lag {
        pending,
        unacknowledged,
        age,
    })
}

/// When the first message after the acknowledgement floor was stored.
async fn oldest(context: &Context, info: &Info) -> Option<SystemTime> {
    let stream = context.get_stream_no_info(streams::EVENTS).await.ok()?;
    let after = info.ack_floor.stream_sequence + 1;
    let mut first: Option<SystemTime> = None;
    for subject in &info.config.filter_subjects {
        let Ok(message) = stream.direct_get_next_for_subject(subject, Some(after)).await else {
            continue;
        };
        let stored = SystemTime::from(message.time);
        first = Some(first.map_or(stored, |first| first.min(stored)));
    }
    first
}

//! Records the consumers' positions in the stream, to detect events that leave it before they are acknowledged.

use async_nats::jetstream::stream::Info;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::{Bus, Error, lag::Lag, streams};

/// Records a consumer's position and the events it has missed since the last time. Returns whether there are
/// missed events that no operator has dealt with yet.
pub(super) async fn record(
    bus: &Bus,
    pool: &PgPool,
    consumer: &str,
    lag: &Lag,
    stream: &Info,
) -> Result<bool, Error> {
    let number = |sequence: u64| i64::try_from(sequence).unwrap_or(i64::MAX);
    // A consumer without pending events is at the end of the stream.
    let (position, at) = match lag.oldest {
        Some((sequence, published)) => (sequence.saturating_sub(1), published),
        None => (stream.state.last_sequence, None),
    };
    let first = stream.state.first_sequence;
    let left = OffsetDateTime::from_unix_timestamp(stream.state.first_timestamp.unix_timestamp());
    let kept = bus.settings().stream_age().as_secs_f64();
    let observed = sqlx::query!(
        r#"with before as (
               select position, position_at, gap_until,
                      stream_created_at = $3 and position + 1 < $4
                          -- A stream that was lost is published again as far back as it reached.
                          or stream_created_at <> $3 and position_at < now() - make_interval(secs => $7) as missed
               from events.consumer where name = $1 for update
           )
           update events.consumer c
           set gap_from = case when before.missed then coalesce(c.gap_from, before.position_at) else c.gap_from end,
               gap_until = case when before.missed then greatest(c.gap_until, $5) else c.gap_until end,
               position = $2, position_at = coalesce($6, now()), stream_created_at = $3
           from before where c.name = $1
           returning coalesce(before.missed, false) as "missed!", c.gap_from is not null as "open!""#,
        consumer,
        number(position),
        streams::created(stream),
        number(first),
        left.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        at,
        kept,
    )
    .fetch_optional(pool)
    .await?;
    let Some(observed) = observed else {
        return Ok(false);
    };
    if observed.missed {
        tracing::error!(
            consumer,
            stream.first_sequence = first,
            "events left the stream before the consumer had acknowledged them"
        );
    }
    Ok(observed.open)
}

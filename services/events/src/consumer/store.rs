//! The SQL of a consumer.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

pub(super) use crate::store::{begin, begin_with_timeout};

use super::{Worker, message::Message};
use crate::{
    HandlerError,
    envelope::{Envelope, Headers},
};

/// The state of an event when its transaction begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// The event was not in the inbox and now is: its handler must run.
    New,
    /// It has taken effect, or is a dead letter.
    Duplicate,
    /// An earlier event of the aggregate is a dead letter.
    Blocked,
    /// This process no longer owns the consumer. With every other mark it does, until the end of the transaction.
    Fenced,
}

/// Why a handler runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Delivery,
    /// A replay of a dead letter, or of an event parked behind one.
    Replay,
}

#[derive(Default)]
pub(super) struct RecordedStart {
    pub(super) unfinished: u32,
    pub(super) wait: Duration,
}

/// Registers the consumer and returns whether an operator paused it.
pub(super) async fn register(pool: &PgPool, consumer: &str) -> Result<bool, sqlx::Error> {
    let known = sqlx::query_scalar!("select paused from events.consumer where name = $1", consumer);
    if let Some(paused) = known.fetch_optional(pool).await? {
        return Ok(paused);
    }
    sqlx::query!(
        "insert into events.consumer (name) values ($1) on conflict do nothing",
        consumer
    )
    .execute(pool)
    .await?;
    Ok(false)
}

/// Marks events of one facility as taken effect and deletes their failures. The caller commits only if their
/// handlers succeed. A dead letter, or an event parked behind one, is marked only by its replay.
pub(super) async fn mark_all(
    tx: &mut PgConnection,
    worker: &Worker,
    messages: &[Message],
    epoch: i64,
    purpose: Purpose,
) -> Result<Vec<Mark>, sqlx::Error> {
    let events: Vec<_> = messages.iter().map(|message| message.envelope.event_id).collect();
    let aggregates: Vec<_> = messages.iter().map(Message::key).collect();
    // `limit` makes the planner look each event up. Without it the planner reads the whole table, by a plan that
    // it keeps from when the table was small.
    let rows = sqlx::query!(
        r#"with fence as (
               select 1 from events.lease where name = $1 and epoch = $2 for key share
           ), event as (
               select e.event_id, e.position,
                      (select true from events.dead_letter d
                       where d.consumer = $3 and d.event_id = e.event_id limit 1) as dead,
                      (select true from events.parked_key k
                       where k.consumer = $3 and k.aggregate_id = e.aggregate_id limit 1) as parked
               from unnest($4::uuid[], $5::uuid[]) with ordinality as e (event_id, aggregate_id, position)
           ), mark as (
               insert into events.inbox (consumer, event_id)
               select $3, event_id from event, fence where $6 or coalesce(dead, parked) is null
               on conflict do nothing returning event_id
           ), forget as (
               delete from events.failure
               where consumer = $3 and event_id = any (array(select event_id from mark))
           )
           select exists (select from fence) as "held!",
                  mark.event_id is not null as "marked!",
                  dead is null and parked is not null as "behind!"
           from event left join mark using (event_id) order by position"#,
        worker.lease,
        epoch,
        worker.name,
        &events,
        &aggregates,
        purpose == Purpose::Replay,
    )
    .fetch_all(tx)
    .await?;
    let marks = rows
        .into_iter()
        .map(|row| match (row.held, row.marked, row.behind) {
            (false, ..) => Mark::Fenced,
            (_, true, _) => Mark::New,
            (.., true) => Mark::Blocked,
            _ => Mark::Duplicate,
        });
    Ok(marks.collect())
}

/// [`mark_all`] for one event.
pub(super) async fn mark(
    tx: &mut PgConnection,
    worker: &Worker,
    message: &Message,
    epoch: i64,
    purpose: Purpose,
) -> Result<Mark, sqlx::Error> {
    let marks = mark_all(tx, worker, std::slice::from_ref(message), epoch, purpose).await?;
    marks.first().copied().ok_or(sqlx::Error::RowNotFound)
}

/// Refuses a transaction that a failed statement has aborted: the handler continued after the error. PostgreSQL
/// would roll it back at the commit without an error.
pub(super) async fn check_not_aborted(tx: &mut PgConnection) -> Result<(), HandlerError> {
    const IN_FAILED_TRANSACTION: &str = "25P02";
    let Err(error) = sqlx::query("select 1").execute(tx).await else {
        return Ok(());
    };
    let code = error.as_database_error().and_then(|error| error.code());
    if code.is_some_and(|code| code == IN_FAILED_TRANSACTION) {
        let text = "the handler went on after a statement that failed";
        return Err(HandlerError::transient("FAILURE_IGNORED", text));
    }
    Err(error.into())
}

/// Counts a start, unless the event is not due yet or has taken effect. The latter is redelivered only to be
/// acknowledged, and a crash then is not caused by it.
pub(super) async fn record_start(
    pool: &PgPool,
    consumer: &str,
    event: Uuid,
) -> Result<RecordedStart, sqlx::Error> {
    let row = sqlx::query!(
        r#"insert into events.failure (consumer, event_id, unfinished)
           select $1, $2, 1 where not exists (select from events.inbox where consumer = $1 and event_id = $2)
           on conflict (consumer, event_id) do update
           set unfinished = failure.unfinished + (failure.next_at <= now())::int
           returning unfinished, greatest(extract(epoch from next_at - now()), 0)::float8 as "wait!""#,
        consumer,
        event,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map_or_else(RecordedStart::default, |row| RecordedStart {
        unfinished: row.unfinished.unsigned_abs(),
        wait: Duration::from_secs_f64(row.wait),
    }))
}

pub(super) async fn count_failures(pool: &PgPool, consumer: &str, event: Uuid) -> Result<u32, sqlx::Error> {
    let known = sqlx::query_scalar!(
        "select failures from events.failure where consumer = $1 and event_id = $2",
        consumer,
        event,
    );
    Ok(known
        .fetch_optional(pool)
        .await?
        .unwrap_or_default()
        .unsigned_abs())
}

pub(super) async fn record_failure(
    pool: &PgPool,
    consumer: &str,
    event: Uuid,
    error: &HandlerError,
    delay: Duration,
) -> Result<u32, sqlx::Error> {
    let failures = sqlx::query_scalar!(
        "insert into events.failure (consumer, event_id, failures, code, message, next_at)
         values ($1, $2, 1, $3, $4, now() + make_interval(secs => $5))
         on conflict (consumer, event_id) do update
         set failures = failure.failures + 1, unfinished = 0, last_at = now(), code = excluded.code,
             message = excluded.message, next_at = excluded.next_at
         returning failures",
        consumer,
        event,
        error.code(),
        error.message(),
        delay.as_secs_f64(),
    )
    .fetch_one(pool)
    .await?;
    Ok(failures.unsigned_abs())
}

/// Counts that an event exceeded the timeout while others took effect.
pub(super) async fn record_timeout(pool: &PgPool, consumer: &str, event: Uuid) -> Result<u32, sqlx::Error> {
    let timeouts = sqlx::query_scalar!(
        "insert into events.failure (consumer, event_id, timeouts) values ($1, $2, 1)
         on conflict (consumer, event_id) do update
         set timeouts = failure.timeouts + 1, unfinished = 0, last_at = now()
         returning timeouts",
        consumer,
        event,
    )
    .fetch_one(pool)
    .await?;
    Ok(timeouts.unsigned_abs())
}

/// A recorded start has ended without an outcome, but the process has not crashed in it.
pub(super) async fn clear_unfinished(pool: &PgPool, consumer: &str, event: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update events.failure set unfinished = 0 where consumer = $1 and event_id = $2",
        consumer,
        event,
    )
    .execute(pool)
    .await?;
    Ok(())
}

pub(super) async fn delete_failures(
    tx: &mut PgConnection,
    consumer: &str,
    event: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from events.failure where consumer = $1 and event_id = $2",
        consumer,
        event
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn park(
    tx: &mut PgConnection,
    consumer: &str,
    message: &Message,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into events.parked (consumer, aggregate_id, facility, event_id, message_id, subject, stream,
             stream_sequence, headers, body)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
         -- One that has taken effect may come again when a later one is dead.
         where not exists (select from events.inbox where consumer = $1 and event_id = $4)
         on conflict (consumer, event_id) do nothing",
        consumer,
        message.key(),
        message.envelope.facility,
        message.envelope.event_id,
        message.message_id,
        message.subject,
        message.stream,
        i64::try_from(message.sequence).unwrap_or(i64::MAX),
        serde_json::json!(message.headers),
        message.body,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The first event parked for an aggregate, as if it had just been delivered by `carrier`.
pub(super) async fn first_parked(
    tx: &mut PgConnection,
    consumer: &str,
    carrier: &Message,
) -> Result<Option<(i64, Message)>, sqlx::Error> {
    let row = sqlx::query!(
        "select id, event_id, message_id, subject, stream, stream_sequence, headers, body
         from events.parked where consumer = $1 and aggregate_id = $2 order by id limit 1",
        consumer,
        carrier.key(),
    );
    let Some(row) = row.fetch_optional(tx).await? else {
        return Ok(None);
    };
    let headers: Headers =
        serde_json::from_value(row.headers).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let sequence = row.stream_sequence.unsigned_abs();
    let (envelope, malformed) = Envelope::parse_or_placeholder(&headers, &row.stream, sequence);
    let message = Message {
        stream: row.stream,
        sequence,
        subject: row.subject,
        message_id: row.message_id,
        headers,
        body: row.body,
        envelope,
        malformed,
        ..carrier.clone()
    };
    Ok(Some((row.id, message)))
}

/// The state of a dead letter, and its event as if it had just been delivered by `carrier`.
pub(super) async fn find_dead_letter(
    tx: &mut PgConnection,
    id: Uuid,
    carrier: &Message,
) -> Result<Option<(String, Message)>, sqlx::Error> {
    let row = sqlx::query!(
        "select state, message_id, subject, stream, stream_sequence, headers, body
         from events.dead_letter where id = $1",
        id,
    );
    let Some(row) = row.fetch_optional(tx).await? else {
        return Ok(None);
    };
    let headers: Headers =
        serde_json::from_value(row.headers).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let sequence = row.stream_sequence.unsigned_abs();
    let (envelope, malformed) = Envelope::parse_or_placeholder(&headers, &row.stream, sequence);
    let message = Message {
        stream: row.stream,
        sequence,
        subject: row.subject,
        message_id: row.message_id,
        headers,
        body: row.body,
        envelope,
        malformed,
        ..carrier.clone()
    };
    Ok(Some((row.state, message)))
}

pub(super) async fn remove_parked(tx: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from events.parked where id = $1", id)
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn unpark(
    tx: &mut PgConnection,
    consumer: &str,
    aggregate: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from events.parked_key where consumer = $1 and aggregate_id = $2",
        consumer,
        aggregate
    )
    .execute(tx)
    .await?;
    Ok(())
}

//! Messages that the broker refuses: operators list, retry and discard them.

use proto::ops::v1 as ops;
use sqlx::PgConnection;

use super::{actions::AuditDetail, dead_letters, error::Error};

/// The most messages in a response.
const MAX_MESSAGES: i64 = 100;

/// The most events counted behind one message.
const MAX_COUNTED: i64 = 1_000;

pub(super) async fn list(tx: &mut PgConnection, after: i64) -> Result<Vec<ops::HeldMessage>, Error> {
    let rows = sqlx::query!(
        r#"select position, kind, facility, aggregate_id, message_id, type, subject, size, code, reason, attempts, since,
               next_at,
               case when kind = 'event' then (
                   -- What waits behind it was set aside.
                   select count(*) from (
                       select from events.event_log e
                       where e.pending and e.lane < 0
                         and e.lane = -1 - get_byte(uuid_send(h.aggregate_id), 15) % 16
                         and e.aggregate_id = h.aggregate_id and e.position > h.position
                       limit $3::bigint + 1) behind)
               else 0 end as "waiting!"
           from events.held h where position > $1 order by position limit $2"#,
        after,
        MAX_MESSAGES,
        MAX_COUNTED,
    )
    .fetch_all(tx)
    .await?;
    let messages = rows.into_iter().map(|row| ops::HeldMessage {
        position: row.position,
        kind: kind(&row.kind, &row.subject).into(),
        facility: row.facility,
        message_id: row.message_id,
        event_type: row.r#type,
        subject: row.subject,
        aggregate_id: row.aggregate_id.to_string(),
        size_bytes: row.size.unsigned_abs(),
        code: row.code,
        reason: row.reason,
        attempts: row.attempts.unsigned_abs(),
        hold_time: Some(dead_letters::timestamp(row.since)),
        retry_time: Some(dead_letters::timestamp(row.next_at)),
        waiting_count: u32::try_from(row.waiting.min(MAX_COUNTED)).unwrap_or(u32::MAX),
        waiting_partial: row.waiting > MAX_COUNTED,
    });
    Ok(messages.collect())
}

/// The number of held messages of all facilities.
pub(super) async fn count(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let count =
        sqlx::query_scalar!(r#"select coalesce(sum(held), 0)::bigint as "count!" from events.held_depth()"#);
    Ok(count.fetch_one(connection).await?.unsigned_abs())
}

pub(super) async fn retry(
    tx: &mut PgConnection,
    request: &ops::RetryHeldMessagesRequest,
) -> Result<(ops::RetryHeldMessagesResponse, AuditDetail), Error> {
    let due = sqlx::query!(
        "update events.held set next_at = '-infinity' where $1::bigint = 0 or position = $1",
        request.position,
    )
    .execute(tx)
    .await?;
    if request.position != 0 && due.rows_affected() == 0 {
        return Err(not_found(request.position));
    }
    let retried_count = u32::try_from(due.rows_affected()).unwrap_or(u32::MAX);
    let detail = AuditDetail::new(format!("{retried_count} messages"));
    Ok((ops::RetryHeldMessagesResponse { retried_count }, detail))
}

pub(super) async fn discard(
    tx: &mut PgConnection,
    request: &ops::DiscardHeldMessageRequest,
) -> Result<(ops::DiscardHeldMessageResponse, AuditDetail), Error> {
    // The function sees the rows of all facilities; this query sees those of the operator's facility.
    let held = sqlx::query!(
        "select message_id, subject from events.held where position = $1 for update",
        request.position,
    );
    let held = held.fetch_optional(&mut *tx).await?;
    let held = held.ok_or_else(|| not_found(request.position))?;
    sqlx::query!(
        r#"select events.discard_held($1) as "discarded!""#,
        request.position
    )
    .fetch_one(tx)
    .await?;
    let detail = AuditDetail::new(format!(
        "{} on {}: {}",
        held.message_id, held.subject, request.reason
    ));
    Ok((ops::DiscardHeldMessageResponse {}, detail))
}

fn not_found(position: i64) -> Error {
    Error::NotFound {
        kind: "held message",
        id: position.to_string(),
    }
}

fn kind(kind: &str, subject: &str) -> ops::HeldMessageKind {
    match kind {
        "event" => ops::HeldMessageKind::Event,
        _ if subject.starts_with("dlq.") => ops::HeldMessageKind::DeadLetterCopy,
        _ => ops::HeldMessageKind::Replay,
    }
}

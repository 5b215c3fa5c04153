//! Stores an event that cannot take effect now: as a dead letter, or parked behind one.

use serde_json::json;
use sqlx::PgConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{Worker, attempt::Outcome, message::Message, store};
use crate::{
    HandlerError,
    envelope::{DEAD_LETTER, Headers, SEQUENCE, STREAM},
    failure::{Class, fingerprint},
    lease::fence,
    outbox::{Notice, notify},
};

/// Characters kept of a name or an id.
const MAX_NAME_CHARS: usize = 300;

/// Characters kept of an error's message.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// An event that was parked behind a dead letter and becomes one itself.
pub(super) struct ParkedBehind {
    pub(super) dead_letter: Uuid,
    pub(super) parked: i64,
}

/// A stored dead letter, as it is published to the stream.
struct DeadLetter {
    id: Uuid,
    attempts: i32,
    first_failure: OffsetDateTime,
    last_failure: OffsetDateTime,
    replay_count: i32,
    parked_behind: Option<Uuid>,
    /// No dead letter has had this fingerprint before.
    new_kind: bool,
    /// The build that resolved an earlier failure of this kind.
    resolved_before: String,
}

impl Worker {
    pub(super) async fn park(&self, message: &Message, epoch: i64) -> Result<Outcome, sqlx::Error> {
        let mut tx = store::begin(&self.pool, &message.envelope.facility).await?;
        if !fence(&mut tx, &self.lease, epoch).await? {
            return Ok(Outcome::Fenced);
        }
        store::park(&mut tx, &self.name, message).await?;
        store::delete_failures(&mut tx, &self.name, message.envelope.event_id).await?;
        tx.commit().await?;
        Ok(Outcome::Done)
    }

    /// Writes the dead letter, the parked key and the notice for DEAD_LETTERS in one transaction.
    pub(super) async fn create_dead_letter(
        &self,
        message: &Message,
        epoch: i64,
        class: Class,
        error: &HandlerError,
        behind: Option<ParkedBehind>,
    ) -> Result<Outcome, sqlx::Error> {
        let mut tx = store::begin(&self.pool, &message.envelope.facility).await?;
        if !fence(&mut tx, &self.lease, epoch).await? {
            return Ok(Outcome::Fenced);
        }
        if let Some(behind) = &behind {
            store::remove_parked(&mut tx, behind.parked).await?;
        }
        let parked_behind = behind.map(|behind| behind.dead_letter);
        let written = self.insert(&mut tx, message, class, error, parked_behind).await?;
        let Some(record) = written else {
            tracing::error!(
                consumer = self.name,
                stream.sequence = message.sequence,
                "another facility's dead letter has the event's id; the event remains only in the stream"
            );
            return Ok(Outcome::DeadLettered("its id is taken".into()));
        };
        sqlx::query!(
            "insert into events.parked_key (consumer, aggregate_id, facility, dead_letter_id)
             values ($1, $2, $3, $4)
             on conflict (consumer, aggregate_id) do update set dead_letter_id = excluded.dead_letter_id
                 -- A message that names another facility's aggregate does not take it over.
                 where parked_key.facility = excluded.facility",
            self.name,
            message.key(),
            message.envelope.facility,
            record.id,
        )
        .execute(&mut *tx)
        .await?;
        self.publish_copy(&mut tx, message, class, error, &record).await?;
        store::delete_failures(&mut tx, &self.name, message.envelope.event_id).await?;
        tx.commit().await?;
        tracing::error!(
            consumer = self.name,
            dead_letter.id = %record.id,
            event.id = %message.envelope.event_id,
            error.class = class.as_str(),
            error.code = error.code(),
            error = error.message(),
            error.resolved_before_version = record.resolved_before,
            "an event became a dead letter"
        );
        self.metrics.record_dead_letter(record.new_kind);
        Ok(Outcome::DeadLettered(term_reason(class, error)))
    }

    /// Reopens a dead letter whose replay failed for good.
    pub(super) async fn reopen(
        &self,
        dead_letter: Uuid,
        message: &Message,
        epoch: i64,
        class: Class,
        error: &HandlerError,
    ) -> Result<Outcome, sqlx::Error> {
        let mut tx = store::begin(&self.pool, &message.envelope.facility).await?;
        if !fence(&mut tx, &self.lease, epoch).await? {
            return Ok(Outcome::Fenced);
        }
        let row = sqlx::query!(
            r#"update events.dead_letter
               set state = 'open', error_class = $2, error_code = $3, error_message = $4, fingerprint = $5,
                   handler_version = $6, last_failure_at = now(), attempts = attempts + greatest(1, coalesce((
                       select failures from events.failure f
                       where f.consumer = dead_letter.consumer and f.event_id = dead_letter.event_id), 1))
               where id = $1 and state = 'replaying'
               returning attempts, first_failure_at, last_failure_at, replay_count, parked_behind, stream,
                   stream_sequence, subject, message_id,
                   -- The rows as they were: its own fingerprint of before counts.
                   not exists (select from events.dead_letter k
                               where k.facility = dead_letter.facility and k.fingerprint = $5) as "new_kind!""#,
            dead_letter,
            class.as_str(),
            error.code(),
            error
                .message()
                .chars()
                .take(MAX_MESSAGE_CHARS)
                .collect::<String>(),
            fingerprint(&self.name, &message.envelope.type_name, class, error),
            self.handler_version,
        );
        let Some(row) = row.fetch_optional(&mut *tx).await? else {
            return Ok(Outcome::Done);
        };
        let record = DeadLetter {
            id: dead_letter,
            attempts: row.attempts,
            first_failure: row.first_failure_at,
            last_failure: row.last_failure_at,
            replay_count: row.replay_count,
            parked_behind: row.parked_behind,
            new_kind: row.new_kind,
            resolved_before: String::new(),
        };
        let original = Message {
            stream: row.stream,
            sequence: row.stream_sequence.unsigned_abs(),
            subject: row.subject,
            message_id: row.message_id,
            ..message.clone()
        };
        self.publish_copy(&mut tx, &original, class, error, &record)
            .await?;
        store::delete_failures(&mut tx, &self.name, message.envelope.event_id).await?;
        tx.commit().await?;
        tracing::error!(
            consumer = self.name,
            dead_letter.id = %dead_letter,
            error.code = error.code(),
            error = error.message(),
            "the replay of a dead letter failed"
        );
        self.metrics.record_dead_letter(record.new_kind);
        Ok(Outcome::DeadLettered(term_reason(class, error)))
    }

    /// `None`: a dead letter of another facility has the event's id.
    async fn insert(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        class: Class,
        error: &HandlerError,
        parked_behind: Option<Uuid>,
    ) -> Result<Option<DeadLetter>, sqlx::Error> {
        let envelope = &message.envelope;
        let row = sqlx::query!(
            r#"insert into events.dead_letter (id, facility, state, consumer, event_id, message_id, type, subject,
                   stream, stream_sequence, aggregate, aggregate_id, version, saga_id, causation_id, trace_id,
                   headers, body, error_class, error_code, error_message, fingerprint, handler_version,
                   parked_behind, attempts, first_failure_at, last_failure_at, resolved_before_version)
               select $1, $2, 'open', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
                   $20, $21, $22, $23, coalesce(f.failures + f.timeouts + greatest(f.unfinished - 1, 0), 0), coalesce(f.first_at, now()), coalesce(f.last_at, now()),
                   coalesce((select k.resolved_version from events.dead_letter k
                             where k.facility = $2 and k.fingerprint = $21 and k.state = 'resolved'
                             order by k.resolved_at desc nulls last limit 1), '')
               from (select) one left join events.failure f on f.consumer = $3 and f.event_id = $4
               on conflict (consumer, event_id) do nothing
               returning id, attempts, first_failure_at, last_failure_at, resolved_before_version,
                   not exists (select from events.dead_letter k where k.facility = $2 and k.fingerprint = $21)
                       as "new_kind!""#,
            Uuid::now_v7(),
            envelope.facility,
            self.name,
            envelope.event_id,
            truncate(&message.message_id),
            truncate(&envelope.type_name),
            message.subject,
            message.stream,
            i64::try_from(message.sequence).unwrap_or(i64::MAX),
            truncate(&envelope.aggregate),
            envelope.aggregate_id,
            envelope.version,
            envelope.saga_id,
            envelope.causation_id,
            truncate(envelope.trace_id()),
            json!(message.headers),
            message.body,
            class.as_str(),
            truncate(error.code()),
            error.message().chars().take(MAX_MESSAGE_CHARS).collect::<String>(),
            fingerprint(&self.name, &envelope.type_name, class, error),
            self.handler_version,
            parked_behind,
        )
        .fetch_optional(tx)
        .await?;
        Ok(row.map(|row| DeadLetter {
            id: row.id,
            attempts: row.attempts,
            first_failure: row.first_failure_at,
            last_failure: row.last_failure_at,
            replay_count: 0,
            parked_behind,
            new_kind: row.new_kind,
            resolved_before: row.resolved_before_version,
        }))
    }

    /// Publishes the copy for the stream DEAD_LETTERS: the unchanged body, with the failure's details in the
    /// headers.
    async fn publish_copy(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        class: Class,
        error: &HandlerError,
        record: &DeadLetter,
    ) -> Result<(), sqlx::Error> {
        let time = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        let fingerprint = fingerprint(&self.name, &message.envelope.type_name, class, error);
        let mut headers: Headers = message.headers.clone();
        headers.extend([
            (DEAD_LETTER.into(), record.id.to_string()),
            (STREAM.into(), message.stream.clone()),
            ("weft-subject".into(), message.subject.clone()),
            (SEQUENCE.into(), message.sequence.to_string()),
            ("weft-message-id".into(), message.message_id.clone()),
            ("weft-consumer".into(), self.name.clone()),
            ("weft-attempts".into(), record.attempts.to_string()),
            ("weft-first-failure".into(), time(record.first_failure)),
            ("weft-last-failure".into(), time(record.last_failure)),
            ("weft-error-class".into(), class.as_str().into()),
            ("weft-error-code".into(), error.code().into()),
            (
                "weft-error-message".into(),
                error.message().chars().take(1_000).collect(),
            ),
            ("weft-fingerprint".into(), fingerprint),
            ("weft-handler-version".into(), self.handler_version.clone()),
            ("weft-replay-count".into(), record.replay_count.to_string()),
        ]);
        if let Some(behind) = record.parked_behind {
            headers.insert("weft-parked-behind".into(), behind.to_string());
        }
        let notice = Notice {
            message_id: format!("dead:{}:{}", record.id, record.replay_count),
            subject: format!("dlq.{}.{}.{}", self.bus.service(), self.name, class.as_str()),
            aggregate_id: message.key(),
            headers: &headers,
            body: &message.body,
        };
        notify(tx, &notice).await
    }
}

/// Truncates a name or an id, since a foreign message may have one of any length. The headers are kept whole.
fn truncate(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).collect()
}

/// The reason in the protocol line `+TERM reason`: one line of at most 200 characters.
fn term_reason(class: Class, error: &HandlerError) -> String {
    let text = format!("{}: {}", class.as_str(), error.code());
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}

//! The table of answers.

use prost::Message;
use sqlx::PgConnection;
use tonic::{Response, Status, metadata::MetadataValue};
use uuid::Uuid;

use super::{Error, Key, REPLAYED};
use crate::{Facility, audit, status};

/// What a claim found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The key is this request's: do the work.
    New,
    /// It was answered before, with these bytes.
    Answered(Vec<u8>),
    /// It was claimed before, for this resource, and not answered yet: it runs, or was cut short.
    Running {
        /// What the first request made.
        resource_id: Uuid,
    },
}

/// Claims `key` for the resource that the request will make or change. In the same transaction as the work: when that
/// rolls back, the claim does too. Another claim of the same key waits for that transaction.
///
/// # Errors
/// [`Error::KeyReused`] when the key was claimed for another request.
pub async fn claim(
    conn: &mut PgConnection,
    facility: &Facility,
    key: &Key,
    resource_id: Uuid,
) -> Result<Claim, Error> {
    // Under READ COMMITTED, the second statement sees what the first one had to wait for.
    for _ in 0..3 {
        let inserted = sqlx::query!(
            "insert into chassis.idempotency (facility, method, request_id, request_hash, resource_id)
             values ($1, $2, $3, $4, $5)
             on conflict (facility, method, request_id) do nothing",
            facility.as_str(),
            key.method,
            key.request_id,
            &key.hash,
            resource_id,
        )
        .execute(&mut *conn)
        .await?;
        if inserted.rows_affected() == 1 {
            // What the key's transaction does, it does for the call that runs.
            audit::record_effect(conn).await?;
            return Ok(Claim::New);
        }
        let first = sqlx::query!(
            "select request_hash, resource_id, answer from chassis.idempotency
             where facility = $1 and method = $2 and request_id = $3",
            facility.as_str(),
            key.method,
            key.request_id,
        )
        .fetch_optional(&mut *conn)
        .await?;
        match first {
            Some(first) if first.request_hash != key.hash => return Err(Error::KeyReused),
            Some(first) => {
                let running = Claim::Running {
                    resource_id: first.resource_id,
                };
                return Ok(first.answer.map_or(running, Claim::Answered));
            }
            // Pruned between the two statements.
            None => {}
        }
    }
    Err(Error::Database(sqlx::Error::RowNotFound))
}

/// Stores the answer in the transaction that completes the request, and gives back the stored one: the first writer
/// wins. Call [`announce`](super::announce) once that has committed.
///
/// # Errors
/// When the database fails.
pub async fn answer(
    conn: &mut PgConnection,
    facility: &Facility,
    key: &Key,
    message: &impl Message,
) -> Result<Vec<u8>, sqlx::Error> {
    let bytes = message.encode_to_vec();
    let stored = sqlx::query_scalar!(
        "update chassis.idempotency
         set answer = coalesce(answer, $4), answered_at = coalesce(answered_at, now())
         where facility = $1 and method = $2 and request_id = $3
         returning answer",
        facility.as_str(),
        key.method,
        key.request_id,
        bytes,
    )
    .fetch_optional(conn)
    .await?;
    Ok(stored.flatten().unwrap_or(bytes))
}

/// A stored answer as a response, marked as repeated.
///
/// # Errors
/// INTERNAL when the bytes are not such a message.
pub fn replay<M: Message + Default>(bytes: &[u8]) -> Result<Response<M>, Status> {
    M::decode(bytes)
        .map(replayed)
        .map_err(|error| status::internal(&error))
}

/// A response marked as repeated.
pub fn replayed<M>(message: M) -> Response<M> {
    let mut response = Response::new(message);
    response
        .metadata_mut()
        .insert(REPLAYED, MetadataValue::from_static("true"));
    response
}

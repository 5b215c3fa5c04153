//! The key and the answer of one request.

use prost::Message;
use sqlx::PgConnection;
use tonic::{Response, Status, metadata::MetadataValue};
use uuid::Uuid;

use super::{Error, Key, NewKey, REPLAYED, acquire_all, find, store_responses};
use crate::{Facility, audit, status};

/// What a claim found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// The key is this request's: do the work.
    New,
    /// It was answered before, with these bytes.
    Completed(Vec<u8>),
    /// It was claimed before, for this resource, and not answered yet: it runs, or was cut short.
    InProgress {
        /// What the first request made.
        resource_id: Uuid,
    },
}

/// Claims `key` for the resource that the request will make or change. In the same transaction as the work: when that
/// rolls back, the claim does too. Another claim of the same key waits for that transaction.
///
/// # Errors
/// [`Error::KeyReused`] when the key was claimed for another request.
pub async fn acquire(
    conn: &mut PgConnection,
    facility: &Facility,
    key: &Key,
    resource_id: Uuid,
) -> Result<KeyState, Error> {
    let new = NewKey {
        facility,
        key,
        resource_id,
        response: None,
    };
    // Under READ COMMITTED, the second statement sees what the first one had to wait for.
    for _ in 0..3 {
        if acquire_all(conn, &[new]).await?.contains(&true) {
            // What the key's transaction does, it does for the call that runs.
            audit::record_effect(conn).await?;
            return Ok(KeyState::New);
        }
        // Nothing is found when it was pruned between the two statements.
        if let Some(knencoded) = find(conn, &[(facility, key)]).await?.into_iter().flatten().next() {
            return knencoded;
        }
    }
    Err(Error::Database(sqlx::Error::RowNotFound))
}

/// Stores the answer in the transaction that completes the request, and gives back the stored one: the first writer
/// wins. Call [`notify_waiters`](super::notify_waiters) once that has committed.
///
/// # Errors
/// When the database fails.
pub async fn store_response(
    conn: &mut PgConnection,
    facility: &Facility,
    key: &Key,
    message: &impl Message,
) -> Result<Vec<u8>, sqlx::Error> {
    let encoded = message.encode_to_vec();
    let stored = store_responses(conn, &[(facility, key, encoded)]).await?;
    Ok(stored.into_iter().next().unwrap_or_default())
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

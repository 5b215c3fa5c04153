//! The key and the response of a single request.

use prost::Message;
use sqlx::PgConnection;
use tonic::{Response, Status, metadata::MetadataValue};
use uuid::Uuid;

use super::{Error, Key, NewKey, REPLAYED, acquire_all, find, store_responses};
use crate::{Facility, audit, status};

/// The state of a request's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// The key was inserted now: do the work.
    New,
    /// The request has completed, with this encoded response.
    Completed(Vec<u8>),
    /// An earlier request with this key has not completed: it is running, or was interrupted.
    InProgress {
        /// The resource that the first request creates or changes.
        resource_id: Uuid,
    },
}

/// Inserts `key` for the resource that the request creates or changes, in the same transaction as the work:
/// rolling back removes the key. A concurrent transaction with the same key waits for this one.
///
/// # Errors
/// [`Error::KeyReused`] when the key was used for another request.
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
    // Under READ COMMITTED, the second statement sees the row that the first one waited for.
    for _ in 0..3 {
        if acquire_all(conn, &[new]).await?.contains(&true) {
            // Effects in the key's transaction belong to the current call.
            audit::record_effect(conn).await?;
            return Ok(KeyState::New);
        }
        // The row is missing if it was pruned between the two statements.
        if let Some(known) = find(conn, &[(facility, key)]).await?.into_iter().flatten().next() {
            return known;
        }
    }
    Err(Error::Database(sqlx::Error::RowNotFound))
}

/// Stores the response in the transaction that completes the request, and returns the stored one: the first writer
/// wins. Call [`notify_waiters`](super::notify_waiters) after the commit.
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

/// Decodes a stored response and marks it as repeated.
///
/// # Errors
/// INTERNAL when the bytes cannot be decoded.
pub fn replay<M: Message + Default>(bytes: &[u8]) -> Result<Response<M>, Status> {
    M::decode(bytes)
        .map(replayed)
        .map_err(|error| status::internal(&error))
}

/// Marks a response as repeated.
pub fn replayed<M>(message: M) -> Response<M> {
    let mut response = Response::new(message);
    response
        .metadata_mut()
        .insert(REPLAYED, MetadataValue::from_static("true"));
    response
}

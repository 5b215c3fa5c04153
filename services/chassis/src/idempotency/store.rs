//! SQL for the keys and responses of several requests, in one statement each.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Error, Key, KeyState};
use crate::Facility;

/// The key of a new request.
#[derive(Clone, Copy, Debug)]
pub struct NewKey<'a> {
    /// The request's facility.
    pub facility: &'a Facility,
    /// The request's key.
    pub key: &'a Key,
    /// The resource that the request creates or changes.
    pub resource_id: Uuid,
    /// The encoded response, if this transaction also completes the request.
    pub response: Option<&'a [u8]>,
}

/// Inserts the keys of requests in the transaction that does their work, and stores the responses of those that
/// have one. True for each key that was inserted. For the others, including a second request with the same key in
/// `requests`, call [`find`]. A concurrent transaction with one of the keys waits for this one.
///
/// # Errors
/// When the database fails.
pub async fn acquire_all(conn: &mut PgConnection, requests: &[NewKey<'_>]) -> Result<Vec<bool>, sqlx::Error> {
    let column = |value: fn(&NewKey<'_>) -> Uuid| requests.iter().map(value).collect::<Vec<_>>();
    let facilities: Vec<_> = requests.iter().map(|request| request.facility.as_str()).collect();
    let methods: Vec<_> = requests.iter().map(|request| request.key.method()).collect();
    let hashes: Vec<_> = requests.iter().map(|request| request.key.hash()).collect();
    let responses: Vec<_> = requests.iter().map(|request| request.response).collect();
    let resources = column(|request| request.resource_id);
    // Sorted, so that two transactions with keys in common cannot deadlock.
    let claimed = sqlx::query_scalar!(
        "insert into chassis.idempotency (facility, method, request_id, request_hash, resource_id, answer, answered_at)
         select facility, method, request_id, request_hash, resource_id, answer,
                case when answer is not null then now() end
         from unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[], $5::uuid[], $6::bytea[])
             as requests (facility, method, request_id, request_hash, resource_id, answer)
         order by facility, method, request_id
         on conflict (facility, method, request_id) do nothing
         returning resource_id",
        &facilities as &[&str],
        &methods as &[&str],
        &column(|request| request.key.request_id()),
        &hashes as &[&[u8]],
        &resources,
        &responses as &[Option<&[u8]>],
    )
    .fetch_all(conn)
    .await?;
    Ok(resources
        .iter()
        .map(|resource| claimed.contains(resource))
        .collect())
}

/// The states of requests' keys, in the same order: completed, in progress, or an error if the key was used for
/// another request. `None` for an unknown key.
///
/// # Errors
/// When the database fails.
pub async fn find(
    conn: &mut PgConnection,
    requests: &[(&Facility, &Key)],
) -> Result<Vec<Option<Result<KeyState, Error>>>, sqlx::Error> {
    let facilities: Vec<_> = requests.iter().map(|(facility, _)| facility.as_str()).collect();
    let methods: Vec<_> = requests.iter().map(|(_, key)| key.method()).collect();
    let ids: Vec<_> = requests.iter().map(|(_, key)| key.request_id()).collect();
    let rows = sqlx::query!(
        "select known.facility, known.method, known.request_id, known.request_hash, known.resource_id, known.answer
         from unnest($1::text[], $2::text[], $3::uuid[]) as requests (facility, method, request_id)
             join chassis.idempotency known using (facility, method, request_id)",
        &facilities as &[&str],
        &methods as &[&str],
        &ids,
    )
    .fetch_all(conn)
    .await?;
    let known: HashMap<_, _> = rows
        .iter()
        .map(|row| ((row.facility.as_str(), row.method.as_str(), row.request_id), row))
        .collect();
    let state = |(facility, key): &(&Facility, &Key)| {
        let row = known.get(&(facility.as_str(), key.method(), key.request_id()))?;
        Some(match &row.answer {
            _ if row.request_hash != key.hash() => Err(Error::KeyReused),
            Some(answer) => Ok(KeyState::Completed(answer.clone())),
            None => Ok(KeyState::InProgress {
                resource_id: row.resource_id,
            }),
        })
    };
    Ok(requests.iter().map(state).collect())
}

/// Stores the responses of requests in the transaction that completes them, and returns the stored ones in the
/// same order: the first writer wins. Call [`notify_waiters`](super::notify_waiters) for each after the commit.
///
/// # Errors
/// When the database fails.
pub async fn store_responses(
    conn: &mut PgConnection,
    responses: &[(&Facility, &Key, Vec<u8>)],
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    let facilities: Vec<_> = responses.iter().map(|(facility, ..)| facility.as_str()).collect();
    let methods: Vec<_> = responses.iter().map(|(_, key, _)| key.method()).collect();
    let ids: Vec<_> = responses.iter().map(|(_, key, _)| key.request_id()).collect();
    let encoded: Vec<_> = responses
        .iter()
        .map(|(.., response)| response.as_slice())
        .collect();
    let rows = sqlx::query!(
        r#"update chassis.idempotency i
         set answer = coalesce(i.answer, new.answer), answered_at = coalesce(i.answered_at, now())
         from unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[]) as new (facility, method, request_id, answer)
         where i.facility = new.facility and i.method = new.method and i.request_id = new.request_id
         returning i.facility, i.method, i.request_id, i.answer as "answer!""#,
        &facilities as &[&str],
        &methods as &[&str],
        &ids,
        &encoded as &[&[u8]],
    )
    .fetch_all(conn)
    .await?;
    let mut stored: HashMap<_, _> = rows
        .into_iter()
        .map(|row| ((row.facility, row.method, row.request_id), row.answer))
        .collect();
    let first = |(facility, key, encoded): &(&Facility, &Key, Vec<u8>)| {
        let id = (facility.to_string(), key.method().to_owned(), key.request_id());
        // The row was pruned meanwhile.
        stored.remove(&id).unwrap_or_else(|| encoded.clone())
    };
    Ok(responses.iter().map(first).collect())
}

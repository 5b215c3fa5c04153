//! Inserts drafts of claims that arrive at the same time in one transaction.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Facility,
    audit::Origin,
    batch::{Batcher, Command, Limits},
    idempotency::{self, Key, NewKey},
    postgres::Database,
};
use events::{Event, Outbox};
use prost::Message;
use proto::claims::v1::{ClaimPrepared, PrepareClaimResponse};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::Error,
    events::to_event,
    grpc::encode,
    response::Response,
    store::{
        self,
        drafts::{self, Conflict},
    },
};

/// A draft to be stored, with everything that its transaction writes.
pub struct Draft {
    facility: Facility,
    key: Key,
    record: store::Record,
    event: Event,
    response: PrepareClaimResponse,
    encoded_response: Vec<u8>,
    origin: Origin,
}

impl Draft {
    pub(crate) fn new(facility: &Facility, key: Key, record: store::Record) -> Draft {
        let prepared = ClaimPrepared {
            claim_id: record.id.to_string(),
            order_id: record.order_id.to_string(),
            net: record.details.net.clone(),
        };
        let response = PrepareClaimResponse {
            claim: Some(encode::claim(record.clone(), Vec::new())),
        };
        Draft {
            facility: facility.clone(),
            event: to_event(facility, record.id, record.version, &prepared),
            encoded_response: response.encode_to_vec(),
            origin: Origin::current(),
            key,
            record,
            response,
        }
    }

    fn new_key(&self) -> NewKey<'_> {
        NewKey {
            facility: &self.facility,
            key: &self.key,
            resource_id: self.record.id,
            response: Some(&self.encoded_response),
        }
    }
}

/// Inserts drafts. Concurrent ones share a transaction.
pub struct InsertDrafts {
    database: Database,
    outbox: Outbox,
}

/// Collects concurrent drafts into batches.
pub type DraftBatcher = Batcher<InsertDrafts>;

impl InsertDrafts {
    /// A batcher that inserts drafts into `database`.
    pub fn batcher(database: &Database, outbox: &Outbox, tasks: chassis::Tasks) -> DraftBatcher {
        let command = InsertDrafts {
            database: database.clone(),
            outbox: outbox.clone(),
        };
        Batcher::new(command, Limits::default(), tasks)
    }
}

impl Command for InsertDrafts {
    type Item = Draft;
    type Outcome = Result<Response<PrepareClaimResponse>, Error>;
    type Error = Error;

    fn aggregate(&self, draft: &Draft) -> Uuid {
        draft.record.order_id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, drafts: &[Arc<Draft>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = drafts.iter().map(|draft| &draft.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let results = insert(&mut tx, drafts).await?;
        tx.commit().await?;
        self.outbox.wake();
        Ok(results)
    }
}

type PrepareResult = Result<Response<PrepareClaimResponse>, Error>;

async fn insert(conn: &mut PgConnection, drafts: &[Arc<Draft>]) -> Result<Vec<PrepareResult>, Error> {
    let orders: Vec<_> = drafts.iter().map(|draft| draft.record.order_id).collect();
    drafts::lock_orders(conn, &orders).await?;
    let mut results = find_replays(conn, drafts).await?;
    let pending: Vec<&Draft> = drafts
        .iter()
        .map(Arc::as_ref)
        .filter(|draft| !results.contains_key(&draft.record.id))
        .collect();
    if pending.is_empty() {
        return Ok(in_request_order(drafts, results));
    }
    let inserted = drafts::insert(conn, &rows(&pending)).await?;
    let (new, conflicting): (Vec<&Draft>, Vec<&Draft>) = pending
        .into_iter()
        .partition(|draft| inserted.contains(&draft.record.id));
    if !new.is_empty() {
        let requests: Vec<_> = new.iter().map(|draft| draft.new_key()).collect();
        // A request id was used for another order concurrently, in this or another process. The batcher retries in
        // halves, so that all other drafts are inserted.
        if idempotency::acquire_all(conn, &requests).await?.contains(&false) {
            return Err(idempotency::Error::KeyReused.into());
        }
        chassis::audit::record_effects(conn, new.iter().map(|draft| &draft.origin)).await?;
        let events: Vec<_> = new.iter().map(|draft| draft.event.clone()).collect();
        events::append(conn, &events).await?;
    }
    if !conflicting.is_empty() {
        let conflicts = drafts::list_conflicts(conn, &rows(&conflicting)).await?;
        for (draft, conflict) in conflicting.iter().zip(conflicts) {
            // The conflicting claim may have been withdrawn since.
            let conflict = conflict.unwrap_or(Conflict::NumberTaken);
            results.insert(draft.record.id, Err(conflict.into()));
        }
    }
    Ok(in_request_order(drafts, results))
}

/// The results of drafts with a `request_id` that was used before, by claim id.
async fn find_replays(
    conn: &mut PgConnection,
    drafts: &[Arc<Draft>],
) -> Result<HashMap<Uuid, PrepareResult>, Error> {
    let keys: Vec<_> = drafts.iter().map(|draft| (&draft.facility, &draft.key)).collect();
    let known = idempotency::find(conn, &keys).await?;
    let mut results = HashMap::new();
    for (draft, known) in drafts.iter().zip(known) {
        let result = match known {
            Some(Ok(idempotency::KeyState::Completed(bytes))) => Ok(Response::Replayed(bytes)),
            Some(Ok(_)) => Err(Error::InProgress),
            Some(Err(error)) => Err(error.into()),
            None => continue,
        };
        results.insert(draft.record.id, result);
    }
    Ok(results)
}

/// One result for each draft, in the same order. Drafts that are absent from `results` were inserted.
fn in_request_order(drafts: &[Arc<Draft>], mut results: HashMap<Uuid, PrepareResult>) -> Vec<PrepareResult> {
    let result = |draft: &Arc<Draft>| {
        let other = results.remove(&draft.record.id);
        other.unwrap_or_else(|| Ok(Response::New(draft.response.clone())))
    };
    drafts.iter().map(result).collect()
}

fn rows<'a>(drafts: &[&'a Draft]) -> Vec<drafts::Draft<'a>> {
    let row = |draft: &&'a Draft| drafts::Draft {
        facility: &draft.facility,
        record: &draft.record,
    };
    drafts.iter().map(row).collect()
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Error {
        match conflict {
            Conflict::OrderWithdrawn => Error::OrderWithdrawn,
            Conflict::OrderBilled => Error::OrderBilled,
            Conflict::NumberTaken => Error::ClaimKnown,
        }
    }
}

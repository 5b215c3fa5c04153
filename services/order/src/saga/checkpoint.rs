//! Saves the progress of several sagas in one transaction.

use std::sync::Arc;

use ::events::Event;
use chassis::{
    batch::Command,
    idempotency::{self, Key},
    postgres::Database,
};
use uuid::Uuid;

use super::{Saga, SagaContext};
use crate::{
    error::Error,
    events,
    order::Order,
    response::PendingResponse,
    store::{
        self,
        sagas::{Lease, SagaUpdate},
    },
};

/// An order and its saga to be saved, with their events and the response.
pub(super) struct Checkpoint {
    order: Order,
    /// The version in the database.
    from_version: i64,
    saga: Saga,
    /// The epoch in the database.
    epoch: i64,
    lease: Lease,
    events: Vec<Event>,
    response: Option<(Key, Vec<u8>)>,
}

/// The result of saving a checkpoint.
pub(super) enum CheckpointResult {
    /// Everything is saved.
    Saved {
        /// The stored response, which may be an earlier one.
        response: Option<Vec<u8>>,
    },
    /// Nothing is saved: an event has changed the order since it was read.
    OrderChanged,
}

impl Checkpoint {
    /// The changes from `saved` to `next`, which must have no refunds.
    pub(super) fn new(
        saved: &SagaContext,
        next: &SagaContext,
        lease: Lease,
        pending: Option<&PendingResponse>,
    ) -> Checkpoint {
        let (mut order, mut saga) = (next.order.clone(), next.saga.clone());
        let mut events = events::take_from_order(&mut order, Some(saga.id), None);
        events.extend(events::take_from_saga(&mut saga));
        Checkpoint {
            response: pending.map(|pending| (pending.key.clone(), pending.encode(&order, &[]))),
            order,
            from_version: saved.order.version,
            saga,
            epoch: saved.saga.epoch,
            lease,
            events,
        }
    }

    fn changes_order(&self) -> bool {
        self.order.version != self.from_version
    }
}

/// Saves the checkpoints of all sagas of a database.
pub(super) struct CheckpointWriter(pub(super) Database);

impl Command for CheckpointWriter {
    type Item = Checkpoint;
    type Outcome = CheckpointResult;
    type Error = Error;

    fn aggregate(&self, checkpoint: &Checkpoint) -> Uuid {
        checkpoint.order.id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    /// Orders' rows are locked before sagas'.
    async fn execute(&self, checkpoints: &[Arc<Checkpoint>]) -> Result<Vec<CheckpointResult>, Error> {
        let facilities = checkpoints.iter().map(|checkpoint| &checkpoint.order.facility);
        let mut tx = self.0.begin_for(facilities).await?;
        let changed: Vec<_> = checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.changes_order())
            .map(|checkpoint| (&checkpoint.order, checkpoint.from_version))
            .collect();
        let saved = if changed.is_empty() {
            Vec::new()
        } else {
            store::orders::save(&mut tx, &changed).await?
        };
        let is_current =
            |checkpoint: &Checkpoint| !checkpoint.changes_order() || saved.contains(&checkpoint.order.id);
        let current: Vec<&Checkpoint> = checkpoints
            .iter()
            .map(Arc::as_ref)
            .filter(|checkpoint| is_current(checkpoint))
            .collect();
        let mut responses = Vec::new();
        if !current.is_empty() {
            write_sagas(&mut tx, &current).await?;
            responses = store_responses(&mut tx, &current).await?;
        }
        tx.commit().await?;
        let mut responses = responses.into_iter();
        let outcome = |checkpoint: &Arc<Checkpoint>| {
            if is_current(checkpoint) {
                CheckpointResult::Saved {
                    response: checkpoint.response.as_ref().and_then(|_| responses.next()),
                }
            } else {
                CheckpointResult::OrderChanged
            }
        };
        Ok(checkpoints.iter().map(outcome).collect())
    }
}

async fn write_sagas(conn: &mut sqlx::PgConnection, checkpoints: &[&Checkpoint]) -> Result<(), Error> {
    let updates: Vec<_> = checkpoints
        .iter()
        .map(|checkpoint| SagaUpdate {
            saga: &checkpoint.saga,
            epoch: checkpoint.epoch,
            lease: checkpoint.lease,
        })
        .collect();
    // The batcher then retries halves of the batch, which finds the saga that has lost its lease.
    if store::sagas::save(conn, &updates).await?.len() < updates.len() {
        return Err(Error::LeaseLost);
    }
    let events: Vec<_> = checkpoints
        .iter()
        .flat_map(|checkpoint| checkpoint.events.clone())
        .collect();
    Ok(::events::append(conn, &events).await?)
}

async fn store_responses(
    conn: &mut sqlx::PgConnection,
    checkpoints: &[&Checkpoint],
) -> Result<Vec<Vec<u8>>, Error> {
    let responses: Vec<_> = checkpoints
        .iter()
        .filter_map(|checkpoint| {
            let (key, response) = checkpoint.response.as_ref()?;
            Some((&checkpoint.order.facility, key, response.clone()))
        })
        .collect();
    if responses.is_empty() {
        Ok(Vec::new())
    } else {
        Ok(idempotency::store_responses(conn, &responses).await?)
    }
}

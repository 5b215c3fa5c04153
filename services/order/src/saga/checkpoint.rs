//! What has followed in a saga, written together with that of other sagas.

use std::sync::Arc;

use chassis::{
    batch::Command,
    idempotency::{self, Key},
    postgres::Database,
};
use events::Event;
use uuid::Uuid;

use super::{Run, Saga};
use crate::{
    answer::Reply,
    error::Error,
    order::Order,
    store::{
        self,
        sagas::{Lease, Moved},
    },
    told,
};

/// An order and its saga as they are to be written, with their events and the answer that goes with them.
pub(super) struct Checkpoint {
    order: Order,
    /// The version that is written now.
    from: i64,
    saga: Saga,
    /// The epoch that is written now.
    epoch: i64,
    lease: Lease,
    events: Vec<Event>,
    answer: Option<(Key, Vec<u8>)>,
}

/// What became of a checkpoint.
pub(super) enum Written {
    /// It is written.
    Whole {
        /// The stored answer, which may be an earlier one.
        answer: Option<Vec<u8>>,
    },
    /// Nothing of it is: an event has changed the order since it was read.
    OrderChanged,
}

impl Checkpoint {
    /// From `written` to `next`, which has no refunds.
    pub(super) fn new(written: &Run, next: &Run, lease: Lease, reply: Option<&Reply>) -> Checkpoint {
        let (mut order, mut saga) = (next.order.clone(), next.saga.clone());
        let mut events = told::of_order(&mut order, Some(saga.id), None);
        events.extend(told::of_saga(&mut saga));
        Checkpoint {
            answer: reply.map(|reply| (reply.key.clone(), reply.encode(&order, &[]))),
            order,
            from: written.order.version,
            saga,
            epoch: written.saga.epoch,
            lease,
            events,
        }
    }

    fn changes_order(&self) -> bool {
        self.order.version != self.from
    }
}

/// Writes the checkpoints of all sagas of a database.
pub(super) struct Checkpoints(pub(super) Database);

impl Command for Checkpoints {
    type Item = Checkpoint;
    type Outcome = Written;
    type Error = Error;

    fn aggregate(&self, checkpoint: &Checkpoint) -> Uuid {
        checkpoint.order.id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    /// Orders' rows are taken before sagas'.
    async fn execute(&self, checkpoints: &[Arc<Checkpoint>]) -> Result<Vec<Written>, Error> {
        let facilities = checkpoints.iter().map(|checkpoint| &checkpoint.order.facility);
        let mut tx = self.0.begin_for(facilities).await?;
        let changed: Vec<_> = checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.changes_order())
            .map(|checkpoint| (&checkpoint.order, checkpoint.from))
            .collect();
        let saved = match changed.is_empty() {
            true => Vec::new(),
            false => store::orders::save(&mut tx, &changed).await?,
        };
        let is_current =
            |checkpoint: &Checkpoint| !checkpoint.changes_order() || saved.contains(&checkpoint.order.id);
        let current: Vec<&Checkpoint> = checkpoints
            .iter()
            .map(Arc::as_ref)
            .filter(|checkpoint| is_current(checkpoint))
            .collect();
        let mut answers = Vec::new();
        if !current.is_empty() {
            write_sagas(&mut tx, &current).await?;
            answers = store_answers(&mut tx, &current).await?;
        }
        tx.commit().await?;
        let mut answers = answers.into_iter();
        let outcome = |checkpoint: &Arc<Checkpoint>| match is_current(checkpoint) {
            true => Written::Whole {
                answer: checkpoint.answer.as_ref().and_then(|_| answers.next()),
            },
            false => Written::OrderChanged,
        };
        Ok(checkpoints.iter().map(outcome).collect())
    }
}

async fn write_sagas(conn: &mut sqlx::PgConnection, checkpoints: &[&Checkpoint]) -> Result<(), Error> {
    let moved: Vec<_> = checkpoints
        .iter()
        .map(|checkpoint| Moved {
            saga: &checkpoint.saga,
            epoch: checkpoint.epoch,
            lease: checkpoint.lease,
        })
        .collect();
    // Of several, the one that has lost its lease is found when they are tried in halves.
    if store::sagas::save(conn, &moved).await?.len() < moved.len() {
        return Err(Error::LostLease);
    }
    let events: Vec<_> = checkpoints
        .iter()
        .flat_map(|checkpoint| checkpoint.events.clone())
        .collect();
    Ok(events::append(conn, &events).await?)
}

async fn store_answers(
    conn: &mut sqlx::PgConnection,
    checkpoints: &[&Checkpoint],
) -> Result<Vec<Vec<u8>>, Error> {
    let answers: Vec<_> = checkpoints
        .iter()
        .filter_map(|checkpoint| {
            let (key, answer) = checkpoint.answer.as_ref()?;
            Some((&checkpoint.order.facility, key, answer.clone()))
        })
        .collect();
    match answers.is_empty() {
        true => Ok(Vec::new()),
        false => Ok(idempotency::answer_all(conn, &answers).await?),
    }
}

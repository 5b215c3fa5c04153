//! Executes the commands of concurrent callers together in one transaction.
//!
//! A single caller is served at once. While its transaction runs, others queue, and the next transaction takes
//! them all. Under load, a transaction waits some milliseconds for more items.

mod queue;

use std::{
    any::type_name,
    error::Error,
    future::Future,
    mem,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use queue::{Entry, NextStep, Queue};
use tokio::{sync::oneshot, time::Instant};
use tonic::Status;
use uuid::Uuid;

use crate::{
    Tasks,
    status::{self, chain},
};

/// A kind of command that can be executed for several callers in one transaction.
pub trait Command: Send + Sync + 'static {
    /// The command of one caller.
    type Item: Send + Sync + 'static;
    /// The result for one caller.
    type Outcome: Send + 'static;
    /// Why the whole transaction failed.
    type Error: Error + Send + 'static;

    /// The aggregate that the item changes. Two items of one aggregate never run at the same time.
    fn aggregate(&self, item: &Self::Item) -> Uuid;

    /// Whether the database is unavailable, so that the error does not concern the items.
    fn is_outage(&self, error: &Self::Error) -> bool;

    /// Executes all items, sorted by aggregate, in one transaction, and returns their outcomes in that order.
    /// Expected results of an item, such as a conflict or a repetition, are outcomes. An error rolls everything
    /// back; the items are retried in halves until the failing one is found. In an outage all of them fail.
    fn execute(
        &self,
        items: &[Arc<Self::Item>],
    ) -> impl Future<Output = Result<Vec<Self::Outcome>, Self::Error>> + Send;
}

/// The bounds of a [`Batcher`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items in one transaction.
    pub items: usize,
    /// Concurrent transactions. A further one starts only when a full batch is waiting.
    pub concurrency: usize,
    /// Items in the queue; further ones are rejected.
    pub waiting: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            items: 64,
            concurrency: 2,
            waiting: 1_024,
        }
    }
}

/// Why an item has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError<E> {
    /// The queue is full. Nothing was done.
    #[error("too many requests are waiting")]
    Full,
    /// Its deadline passed while it was queued. Nothing was done.
    #[error("the deadline passed before the request was started")]
    Expired,
    /// This item failed, and its changes were rolled back; in an outage, one of all items that failed.
    #[error(transparent)]
    Failed(E),
    /// The database was unavailable; another item of the transaction carries the error. Its changes may have been
    /// committed.
    #[error("the database cannot be used")]
    Outage,
    /// Executing it panicked.
    #[error("the request's execution panicked")]
    Panicked,
}

impl<E> SubmitError<E> {
    /// Whether submitting the same item again may succeed. For [`SubmitError::Failed`] the item's own error
    /// decides.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            SubmitError::Full | SubmitError::Expired | SubmitError::Outage
        )
    }

    /// The item's own error, or the status of an item that was not executed.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED `QUEUE_FULL`, DEADLINE_EXCEEDED, UNAVAILABLE in an outage, or INTERNAL after a panic.
    pub fn into_error(self) -> Result<E, Status> {
        match self {
            SubmitError::Failed(error) => Ok(error),
            SubmitError::Full => {
                let text = "too many requests are waiting; try again";
                Err(status::resource_exhausted("QUEUE_FULL", text, RETRY_AFTER))
            }
            SubmitError::Expired => Err(Status::deadline_exceeded(
                "the deadline passed before the request was started; nothing was done",
            )),
            SubmitError::Outage => Err(status::unavailable(
                "DATABASE_UNAVAILABLE",
                "the database cannot be used now",
            )),
            SubmitError::Panicked => Err(status::internal(&std::io::Error::other("a command panicked"))),
        }
    }
}

/// How long a caller waits before it retries after a full queue.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Batches the items of one kind of command. Cheap to clone.
pub struct Batcher<C: Command>(Arc<Inner<C>>);

struct Inner<C: Command> {
    command: C,
    tasks: Tasks,
    queue: Mutex<Queue<C>>,
}

impl<C: Command> Clone for Batcher<C> {
    fn clone(&self) -> Batcher<C> {
        Batcher(self.0.clone())
    }
}

impl<C: Command> Batcher<C> {
    /// A batcher. The drain waits for its transactions.
    pub fn new(command: C, limits: Limits, tasks: Tasks) -> Batcher<C> {
        Batcher(Arc::new(Inner {
            command,
            tasks,
            queue: Mutex::new(Queue::new(limits)),
        }))
    }

    /// Executes the item. It is not started if its caller is gone or `deadline` has passed; once started, it is
    /// finished even if the caller stops waiting.
    ///
    /// # Errors
    /// [`SubmitError`]. Except in an outage, nothing was committed.
    pub async fn submit(
        &self,
        item: C::Item,
        deadline: Option<Instant>,
    ) -> Result<C::Outcome, SubmitError<C::Error>> {
        let (reply, outcome) = oneshot::channel();
        let entry = Entry {
            aggregate: self.0.command.aggregate(&item),
            item: Arc::new(item),
            deadline,
            reply,
        };
        if !self.lock().push(entry) {
            return Err(SubmitError::Full);
        }
        self.start_batches();
        outcome.await.unwrap_or(Err(SubmitError::Panicked))
    }

    /// Starts as many transactions as the concurrency limit and the queued items allow.
    fn start_batches(&self) {
        loop {
            let next = self.lock().next();
            if matches!(next, NextStep::Idle) {
                return;
            }
            let batcher = self.clone();
            self.0.tasks.run(async move { batcher.run(next).await });
        }
    }

    async fn run(self, mut next: NextStep<C>) {
        while let NextStep::WaitUntil(until) = next {
            tokio::time::sleep_until(until).await;
            next = self.lock().after_wait();
        }
        if let NextStep::Batch(batch) = next {
            let aggregates: Vec<_> = batch.iter().map(|entry| entry.aggregate).collect();
            self.execute_batch(batch).await;
            self.lock().batch_finished(&aggregates);
        }
        self.start_batches();
    }

    /// Executes a batch; retries it in halves if it fails.
    async fn execute_batch(&self, batch: Vec<Entry<C>>) {
        let mut pending = vec![batch];
        while let Some(mut piece) = pending.pop() {
            let items: Vec<_> = piece.iter().map(|entry| entry.item.clone()).collect();
            let done = AssertUnwindSafe(self.0.command.execute(&items))
                .catch_unwind()
                .await;
            let failure = match done {
                Ok(Ok(outcomes)) if outcomes.len() == piece.len() => {
                    for (entry, outcome) in piece.into_iter().zip(outcomes) {
                        entry.send_outcome(Ok(outcome));
                    }
                    continue;
                }
                Ok(Err(error)) if self.0.command.is_outage(&error) => {
                    let mut failure = SubmitError::Failed(error);
                    for entry in piece {
                        entry.send_outcome(Err(mem::replace(&mut failure, SubmitError::Outage)));
                    }
                    continue;
                }
                Ok(Err(error)) => SubmitError::Failed(error),
                Ok(Ok(_)) | Err(_) => SubmitError::Panicked,
            };
            if piece.len() > 1 {
                tracing::warn!(
                    command = type_name::<C>(),
                    items = piece.len(),
                    error.message = chain(&failure),
                    "transaction failed; retrying its items in halves"
                );
                let second = piece.split_off(piece.len() / 2);
                pending.extend([second, piece]);
            } else if let Some(entry) = piece.pop() {
                entry.send_outcome(Err(failure));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<C>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

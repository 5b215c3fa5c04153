//! Many callers, one transaction: what is asked for at the same time is written together.
//!
//! A caller that comes alone is served at once. While its transaction runs others queue up, and the next transaction
//! takes them all. Where many come, it waits some milliseconds for those that are on their way.

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

/// A kind of command that can be carried out for several callers at once.
pub trait Command: Send + Sync + 'static {
    /// What one caller asks for.
    type Item: Send + Sync + 'static;
    /// What becomes of it.
    type Outcome: Send + 'static;
    /// Why nothing became of any item.
    type Error: Error + Send + 'static;

    /// What the item works on. No two items of one aggregate are carried out at the same time.
    fn aggregate(&self, item: &Self::Item) -> Uuid;

    /// Whether the database cannot be used, so that the error says nothing about the items.
    fn is_outage(&self, error: &Self::Error) -> bool;

    /// Carries all items out in one transaction, sorted by their aggregates, and answers their outcomes in that order. What
    /// can be expected of an item, a conflict or a repetition, is its outcome. After an error nothing is kept, and the
    /// items are tried again in halves until the one that causes it stands alone; in an outage all of them have failed.
    fn execute(
        &self,
        items: &[Arc<Self::Item>],
    ) -> impl Future<Output = Result<Vec<Self::Outcome>, Self::Error>> + Send;
}

/// The bounds of a [`Batcher`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items of one transaction.
    pub items: usize,
    /// Transactions at once. A further one begins only when there are items for a whole batch.
    pub concurrency: usize,
    /// Items that wait; more are refused.
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
    /// Too many wait. Nothing was done.
    #[error("too many requests wait")]
    Full,
    /// Its time was over before its turn came. Nothing was done.
    #[error("the time was over before the request's turn came")]
    Expired,
    /// It alone failed, and nothing of it was kept; in an outage, one of all that failed.
    #[error(transparent)]
    Failed(E),
    /// The database could not be used, as another item of the transaction is told with its error. What it wrote may have
    /// been kept.
    #[error("the database cannot be used")]
    Outage,
    /// Its execution panicked.
    #[error("the request's execution panicked")]
    Panicked,
}

impl<E> SubmitError<E> {
    /// Whether the same item may be carried out when it is submitted again, which its own error says otherwise.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            SubmitError::Full | SubmitError::Expired | SubmitError::Outage
        )
    }

    /// The item's own error, or the status of a request that was not carried out.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED `QUEUE_FULL`, DEADLINE_EXCEEDED, UNAVAILABLE in an outage, or INTERNAL after a panic.
    pub fn into_error(self) -> Result<E, Status> {
        match self {
            SubmitError::Failed(error) => Ok(error),
            SubmitError::Full => {
                let text = "too many requests wait; try again";
                Err(status::resource_exhausted("QUEUE_FULL", text, RETRY_AFTER))
            }
            SubmitError::Expired => Err(Status::deadline_exceeded(
                "the time was over before the request's turn came; nothing was done",
            )),
            SubmitError::Outage => Err(status::unavailable(
                "DATABASE_UNAVAILABLE",
                "the database cannot be used now",
            )),
            SubmitError::Panicked => Err(status::internal(&std::io::Error::other("a command has panicked"))),
        }
    }
}

/// How long a caller waits before it asks again where too many wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Collects the items of one kind of command. Cheap to clone.
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
    /// A batcher whose transactions the drain waits for.
    pub fn new(command: C, limits: Limits, tasks: Tasks) -> Batcher<C> {
        Batcher(Arc::new(Inner {
            command,
            tasks,
            queue: Mutex::new(Queue::new(limits)),
        }))
    }

    /// Has the item carried out. One whose caller has gone, or whose `deadline` has passed, is not begun; what has begun is
    /// finished, whoever stops waiting.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was kept then.
    pub async fn submit(
        &self,
        item: C::Item,
        deadline: Option<Instant>,
    ) -> Result<C::Outcome, SubmitError<C::Error>> {
        let (answer, outcome) = oneshot::channel();
        let entry = Entry {
            aggregate: self.0.command.aggregate(&item),
            item: Arc::new(item),
            deadline,
            answer,
        };
        if !self.lock().push(entry) {
            return Err(SubmitError::Full);
        }
        self.start_batches();
        outcome.await.unwrap_or(Err(SubmitError::Panicked))
    }

    /// Begins as many transactions as there are concurrency and items for.
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
            self.lock().finished(&aggregates);
        }
        self.start_batches();
    }

    /// Carries a batch out, in halves where that fails.
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
                        entry.answer(Ok(outcome));
                    }
                    continue;
                }
                Ok(Err(error)) if self.0.command.is_outage(&error) => {
                    let mut failure = SubmitError::Failed(error);
                    for entry in piece {
                        entry.answer(Err(mem::replace(&mut failure, SubmitError::Outage)));
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
                    "a transaction has failed; its items are tried again in halves"
                );
                let second = piece.split_off(piece.len() / 2);
                pending.extend([second, piece]);
            } else if let Some(entry) = piece.pop() {
                entry.answer(Err(failure));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<C>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

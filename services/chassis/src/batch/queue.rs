//! The queue of a batcher, and which items form the next batch.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{Command, Limits, SubmitError};

/// Recent demand from which on a transaction waits for more items. Below it, waiting costs callers more than it
/// saves.
const WAIT_THRESHOLD: usize = 4;
/// The wait ends when no item has arrived for this long: callers of the previous transaction tend to return
/// together.
const QUIET_PERIOD: Duration = Duration::from_millis(2);
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_millis(8);

/// A queued item.
pub(super) struct Entry<C: Command> {
    pub(super) aggregate: Uuid,
    pub(super) item: Arc<C::Item>,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<C::Outcome, SubmitError<C::Error>>>,
}

impl<C: Command> Entry<C> {
    /// Sends the outcome to the caller, if it still waits.
    pub(super) fn send_outcome(self, outcome: Result<C::Outcome, SubmitError<C::Error>>) {
        let _ = self.reply.send(outcome);
    }
}

pub(super) struct Queue<C: Command> {
    limits: Limits,
    waiting: VecDeque<Entry<C>>,
    /// The aggregates of the running transactions.
    busy_aggregates: HashSet<Uuid>,
    batches_running: usize,
    /// Items of the last transaction, plus the items queued when it ended.
    recent_demand: usize,
    wait: Option<Wait>,
}

/// What the batcher does next.
pub(super) enum NextStep<C: Command> {
    Idle,
    /// Execute these items, sorted by aggregate.
    Batch(Vec<Entry<C>>),
    /// Wait until this time, then call [`Queue::after_wait`].
    WaitUntil(Instant),
}

/// A transaction that waits for more items.
#[derive(Clone, Copy)]
struct Wait {
    since: Instant,
    newest: Instant,
}

impl<C: Command> Queue<C> {
    pub(super) fn new(limits: Limits) -> Queue<C> {
        Queue {
            limits,
            waiting: VecDeque::new(),
            busy_aggregates: HashSet::new(),
            batches_running: 0,
            recent_demand: 0,
            wait: None,
        }
    }

    /// False when the queue is full.
    pub(super) fn push(&mut self, entry: Entry<C>) -> bool {
        let fits = self.waiting.len() < self.limits.waiting;
        if fits {
            self.waiting.push_back(entry);
            if let Some(wait) = &mut self.wait {
                wait.newest = Instant::now();
            }
        }
        fits
    }

    /// The next batch, if the concurrency limit allows one: the oldest items. Under load it waits for more.
    pub(super) fn next(&mut self) -> NextStep<C> {
        let is_whole = self.waiting.len() >= self.limits.items;
        if self.waiting.is_empty()
            || self.batches_running >= self.limits.concurrency
            || (self.batches_running > 0 && !is_whole)
        {
            return NextStep::Idle;
        }
        if !is_whole && self.wait.is_some() {
            return NextStep::Idle;
        }
        if !is_whole && self.recent_demand >= WAIT_THRESHOLD {
            let now = Instant::now();
            self.wait = Some(Wait {
                since: now,
                newest: now,
            });
            return NextStep::WaitUntil(now + QUIET_PERIOD);
        }
        self.take().map_or(NextStep::Idle, NextStep::Batch)
    }

    /// The next step after a wait.
    pub(super) fn after_wait(&mut self) -> NextStep<C> {
        let Some(wait) = self.wait else {
            return NextStep::Idle;
        };
        let until = (wait.newest + QUIET_PERIOD).min(wait.since + MAX_WAIT);
        if Instant::now() < until && self.batches_running == 0 && !self.waiting.is_empty() {
            return NextStep::WaitUntil(until);
        }
        self.wait = None;
        // A full batch may have started meanwhile; the remaining items follow when it ends.
        if self.batches_running > 0 {
            return NextStep::Idle;
        }
        self.take().map_or(NextStep::Idle, NextStep::Batch)
    }

    fn take(&mut self) -> Option<Vec<Entry<C>>> {
        self.drop_expired();
        let mut batch: Vec<Entry<C>> = Vec::new();
        let mut others = VecDeque::with_capacity(self.waiting.len());
        for entry in self.waiting.drain(..) {
            if batch.len() < self.limits.items && self.busy_aggregates.insert(entry.aggregate) {
                batch.push(entry);
            } else {
                others.push_back(entry);
            }
        }
        self.waiting = others;
        if batch.is_empty() {
            return None;
        }
        batch.sort_by_key(|entry| entry.aggregate);
        self.batches_running += 1;
        Some(batch)
    }

    /// Records that a batch has ended.
    pub(super) fn batch_finished(&mut self, aggregates: &[Uuid]) {
        self.batches_running -= 1;
        self.recent_demand = aggregates.len() + self.waiting.len();
        for aggregate in aggregates {
            self.busy_aggregates.remove(aggregate);
        }
    }

    /// Drops items whose callers are gone, and answers expired ones.
    fn drop_expired(&mut self) {
        let now = Instant::now();
        let is_expired = |entry: &Entry<C>| entry.deadline.is_some_and(|deadline| deadline <= now);
        for _ in 0..self.waiting.len() {
            let Some(entry) = self.waiting.pop_front() else {
                return;
            };
            if is_expired(&entry) {
                entry.send_outcome(Err(SubmitError::Expired));
            } else if !entry.reply.is_closed() {
                self.waiting.push_back(entry);
            }
        }
    }
}

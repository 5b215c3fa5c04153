//! What waits, and which of it may go together.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{Command, Limits, Refused};

/// An item that waits.
pub(super) struct Entry<C: Command> {
    pub(super) aggregate: Uuid,
    pub(super) item: Arc<C::Item>,
    pub(super) deadline: Option<Instant>,
    pub(super) answer: oneshot::Sender<Result<C::Outcome, Refused<C::Error>>>,
}

impl<C: Command> Entry<C> {
    /// Tells the caller; one that has gone is not told.
    pub(super) fn answer(self, outcome: Result<C::Outcome, Refused<C::Error>>) {
        let _ = self.answer.send(outcome);
    }
}

pub(super) struct Queue<C: Command> {
    limits: Limits,
    waiting: VecDeque<Entry<C>>,
    /// The aggregates of the transactions that run.
    running: HashSet<Uuid>,
    lanes: usize,
}

impl<C: Command> Queue<C> {
    pub(super) fn new(limits: Limits) -> Queue<C> {
        Queue {
            limits,
            waiting: VecDeque::new(),
            running: HashSet::new(),
            lanes: 0,
        }
    }

    /// False when too many wait.
    pub(super) fn push(&mut self, entry: Entry<C>) -> bool {
        let fits = self.waiting.len() < self.limits.waiting;
        if fits {
            self.waiting.push_back(entry);
        }
        fits
    }

    /// The next batch, if a lane is free for it: the items that have waited longest, sorted by aggregate.
    pub(super) fn take(&mut self) -> Option<Vec<Entry<C>>> {
        let is_worth_a_lane =
            self.lanes == 0 || (self.lanes < self.limits.lanes && self.waiting.len() >= self.limits.items);
        if !is_worth_a_lane {
            return None;
        }
        self.drop_the_late();
        let mut batch: Vec<Entry<C>> = Vec::new();
        let mut others = VecDeque::with_capacity(self.waiting.len());
        for entry in self.waiting.drain(..) {
            if batch.len() < self.limits.items && self.running.insert(entry.aggregate) {
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
        self.lanes += 1;
        Some(batch)
    }

    /// A batch has been carried out.
    pub(super) fn finished(&mut self, aggregates: &[Uuid]) {
        self.lanes -= 1;
        for aggregate in aggregates {
            self.running.remove(aggregate);
        }
    }

    /// Nobody waits any more for an item whose caller has gone; one that is late is told so.
    fn drop_the_late(&mut self) {
        let now = Instant::now();
        let is_late = |entry: &Entry<C>| entry.deadline.is_some_and(|deadline| deadline <= now);
        for _ in 0..self.waiting.len() {
            let Some(entry) = self.waiting.pop_front() else {
                return;
            };
            if is_late(&entry) {
                entry.answer(Err(Refused::Late));
            } else if !entry.answer.is_closed() {
                self.waiting.push_back(entry);
            }
        }
    }
}

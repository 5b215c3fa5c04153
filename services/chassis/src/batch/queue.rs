//! What waits, and which of it may go together.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{Command, Limits, Refused};

/// From so many items at a time on, a transaction waits for more. Below it costs a caller more than it saves.
const MANY: usize = 4;
/// It waits until no item has come for so long: those of one transaction come from another one, together,
const QUIET: Duration = Duration::from_millis(2);
/// or for so long.
const LONGEST: Duration = Duration::from_millis(8);

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
    /// How many the last transaction was for, and how many more had come when it ended.
    lately: usize,
    gathering: Option<Gathering>,
}

/// What is to be done next.
pub(super) enum Next<C: Command> {
    Nothing,
    /// Carry these out, sorted by aggregate.
    Batch(Vec<Entry<C>>),
    /// Look again at this time, with [`Queue::gathered`]; more will have come.
    Gather(Instant),
}

/// A transaction that waits for more items.
#[derive(Clone, Copy)]
struct Gathering {
    since: Instant,
    newest: Instant,
}

impl<C: Command> Queue<C> {
    pub(super) fn new(limits: Limits) -> Queue<C> {
        Queue {
            limits,
            waiting: VecDeque::new(),
            running: HashSet::new(),
            lanes: 0,
            lately: 0,
            gathering: None,
        }
    }

    /// False when too many wait.
    pub(super) fn push(&mut self, entry: Entry<C>) -> bool {
        let fits = self.waiting.len() < self.limits.waiting;
        if fits {
            self.waiting.push_back(entry);
            if let Some(gathering) = &mut self.gathering {
                gathering.newest = Instant::now();
            }
        }
        fits
    }

    /// The next batch, if a lane is free for it: the items that have waited longest. Where many come, more are waited for.
    pub(super) fn next(&mut self) -> Next<C> {
        let is_whole = self.waiting.len() >= self.limits.items;
        if self.waiting.is_empty() || self.lanes >= self.limits.lanes || (self.lanes > 0 && !is_whole) {
            return Next::Nothing;
        }
        if !is_whole && self.gathering.is_some() {
            return Next::Nothing;
        }
        if !is_whole && self.lately >= MANY {
            let now = Instant::now();
            self.gathering = Some(Gathering {
                since: now,
                newest: now,
            });
            return Next::Gather(now + QUIET);
        }
        self.take().map_or(Next::Nothing, Next::Batch)
    }

    /// What is to be done when a time to gather is over.
    pub(super) fn gathered(&mut self) -> Next<C> {
        let Some(gathering) = self.gathering else {
            return Next::Nothing;
        };
        let until = (gathering.newest + QUIET).min(gathering.since + LONGEST);
        if Instant::now() < until && self.lanes == 0 && !self.waiting.is_empty() {
            return Next::Gather(until);
        }
        self.gathering = None;
        // A whole batch may have gone ahead; what is left goes when that has ended.
        if self.lanes > 0 {
            return Next::Nothing;
        }
        self.take().map_or(Next::Nothing, Next::Batch)
    }

    fn take(&mut self) -> Option<Vec<Entry<C>>> {
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
        self.lately = aggregates.len() + self.waiting.len();
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

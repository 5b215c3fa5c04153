//! Order within a key, concurrency across keys.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

/// Waiting items by key. A key is idle, running one item, or held until one item is redelivered.
pub(super) struct Queue<T> {
    keys: HashMap<Uuid, Key<T>>,
    /// Keys with an item to run, in the order in which they became ready.
    ready: VecDeque<Uuid>,
}

struct Key<T> {
    waiting: VecDeque<T>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Running,
    /// Waits for the item of this sequence, which the broker will redeliver.
    AwaitingRedelivery(u64),
}

/// An item's position in the stream.
pub(super) trait Sequenced {
    fn sequence(&self) -> u64;
}

impl<T: Sequenced> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            keys: HashMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Adds an item behind those of its key. The item that a held key waits for goes before them.
    pub(super) fn push(&mut self, id: Uuid, item: T) {
        let key = self.keys.entry(id).or_insert_with(Key::new);
        match key.state {
            State::AwaitingRedelivery(awaited) if awaited == item.sequence() => {
                key.waiting.push_front(item);
                key.state = State::Idle;
                self.ready.push_back(id);
            }
            State::Idle if key.waiting.is_empty() => {
                key.waiting.push_back(item);
                self.ready.push_back(id);
            }
            _ => key.waiting.push_back(item),
        }
    }

    /// The number of keys with an item to run.
    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Takes the next items that `accepts` holds for, one of each ready key and at most `max`.
    pub(super) fn take(&mut self, max: usize, mut accepts: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        self.ready.retain(|id| {
            let Some(key) = self.keys.get_mut(id).filter(|_| taken.len() < max) else {
                return true;
            };
            let Some(item) = key.waiting.pop_front_if(|item| accepts(item)) else {
                return true;
            };
            key.state = State::Running;
            taken.push(item);
            false
        });
        taken
    }

    /// The running item of a key runs again, before all others.
    pub(super) fn requeue(&mut self, id: Uuid, item: T) {
        if let Some(key) = self.keys.get_mut(&id) {
            key.waiting.push_front(item);
            key.state = State::Idle;
            self.ready.push_front(id);
        }
    }

    /// The running item of a key is finished, and the next one may run.
    pub(super) fn complete(&mut self, id: Uuid) {
        let Some(key) = self.keys.get_mut(&id) else { return };
        if key.waiting.is_empty() {
            self.keys.remove(&id);
        } else {
            key.state = State::Idle;
            self.ready.push_back(id);
        }
    }

    /// The running item of a key will be redelivered, and the others wait for it.
    pub(super) fn await_redelivery(&mut self, id: Uuid, sequence: u64) {
        if let Some(key) = self.keys.get_mut(&id) {
            key.state = State::AwaitingRedelivery(sequence);
        }
    }
}

impl<T> Key<T> {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            state: State::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Sequenced for u64 {
        fn sequence(&self) -> u64 {
            *self
        }
    }

    fn next(queue: &mut Queue<u64>) -> Option<u64> {
        queue.take(1, |_| true).pop()
    }

    #[test]
    fn one_item_of_a_key_runs_at_a_time_and_other_keys_do_not_wait() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut queue = Queue::new();
        for (key, item) in [(a, 1), (a, 2), (b, 3)] {
            queue.push(key, item);
        }
        assert_eq!(next(&mut queue), Some(1));
        assert_eq!(next(&mut queue), Some(3));
        assert_eq!(next(&mut queue), None);
        queue.complete(a);
        assert_eq!(next(&mut queue), Some(2));
    }

    #[test]
    fn later_items_wait_for_an_item_that_is_redelivered() {
        let a = Uuid::from_u128(1);
        let mut queue = Queue::new();
        queue.push(a, 1);
        assert_eq!(next(&mut queue), Some(1));
        queue.push(a, 2);
        queue.await_redelivery(a, 1);
        queue.push(a, 3);
        assert_eq!(next(&mut queue), None);
        queue.push(a, 1);
        for item in [1, 2, 3] {
            assert_eq!(next(&mut queue), Some(item));
            queue.complete(a);
        }
        assert!(queue.keys.is_empty());
    }

    #[test]
    fn items_are_taken_together_in_order_and_the_others_keep_their_order() {
        let ids: Vec<_> = (0..6).map(Uuid::from_u128).collect();
        let mut queue = Queue::new();
        for (id, item) in ids.iter().zip(0..) {
            queue.push(*id, item);
            queue.push(*id, item + 10);
        }
        let even = |item: &u64| item.is_multiple_of(2);
        assert_eq!(queue.take(2, even), [0, 2]);
        assert_eq!(queue.ready_count(), 4);
        queue.requeue(ids[2], 2);
        queue.complete(ids[0]);
        assert_eq!(queue.take(9, |_| true), [2, 1, 3, 4, 5, 10]);
    }
}

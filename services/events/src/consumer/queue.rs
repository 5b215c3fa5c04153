//! Order within a key, concurrency across keys.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

/// What waits, by key. A key is idle, running one item, or held until one item comes back.
pub(super) struct Queue<T> {
    keys: HashMap<Uuid, Key<T>>,
    /// Keys with something to run, in the order in which they became ready.
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
    /// Waits for the item of this sequence, which was sent back to the broker.
    Held(u64),
}

/// An item's place in the stream.
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

    /// Adds an item behind those of its key; one that its key is held for goes before them.
    pub(super) fn push(&mut self, id: Uuid, item: T) {
        let key = self.keys.entry(id).or_insert_with(Key::new);
        match key.state {
            State::Held(awaited) if awaited == item.sequence() => {
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

    /// Takes the next item whose key may run.
    pub(super) fn next(&mut self) -> Option<(Uuid, T)> {
        let id = self.ready.pop_front()?;
        let key = self.keys.get_mut(&id)?;
        let item = key.waiting.pop_front()?;
        key.state = State::Running;
        Some((id, item))
    }

    /// The running item of a key has an end, and the next one may run.
    pub(super) fn finished(&mut self, id: Uuid) {
        let Some(key) = self.keys.get_mut(&id) else { return };
        if key.waiting.is_empty() {
            self.keys.remove(&id);
        } else {
            key.state = State::Idle;
            self.ready.push_back(id);
        }
    }

    /// The running item of a key was sent back and will be delivered again; the rest waits for it.
    pub(super) fn held(&mut self, id: Uuid, sequence: u64) {
        if let Some(key) = self.keys.get_mut(&id) {
            key.state = State::Held(sequence);
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

    #[test]
    fn one_item_of_a_key_runs_at_a_time_and_other_keys_do_not_wait() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut queue = Queue::new();
        for (key, item) in [(a, 1), (a, 2), (b, 3)] {
            queue.push(key, item);
        }
        assert_eq!(queue.next(), Some((a, 1)));
        assert_eq!(queue.next(), Some((b, 3)));
        assert_eq!(queue.next(), None);
        queue.finished(a);
        assert_eq!(queue.next(), Some((a, 2)));
    }

    #[test]
    fn later_items_wait_for_the_one_that_was_sent_back() {
        let a = Uuid::from_u128(1);
        let mut queue = Queue::new();
        queue.push(a, 1);
        assert_eq!(queue.next(), Some((a, 1)));
        queue.push(a, 2);
        queue.held(a, 1);
        queue.push(a, 3);
        assert_eq!(queue.next(), None);
        queue.push(a, 1);
        for item in [1, 2, 3] {
            assert_eq!(queue.next(), Some((a, item)));
            queue.finished(a);
        }
        assert!(queue.keys.is_empty());
    }
}

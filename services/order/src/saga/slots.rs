//! Bounds the sagas that the worker drives at the same time. Every participant has its own slots, so that sagas
//! that wait for a slow participant do not block the others.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Participant;

/// The free slots. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    claims: Arc<Semaphore>,
    payment: Arc<Semaphore>,
}

/// The slot of one saga, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    participant: Participant,
    slots: Slots,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// Creates this many slots for each participant.
    pub(super) fn new(each: usize) -> Slots {
        Slots {
            claims: Arc::new(Semaphore::new(each)),
            payment: Arc::new(Semaphore::new(each)),
        }
    }

    /// Acquires all free slots of a participant.
    pub(super) fn acquire_all(&self, participant: Participant) -> Vec<Slot> {
        std::iter::from_fn(|| self.try_acquire(participant)).collect()
    }

    fn try_acquire(&self, participant: Participant) -> Option<Slot> {
        let semaphore = match participant {
            Participant::Claims => &self.claims,
            Participant::Payment => &self.payment,
        };
        let permit = Arc::clone(semaphore).try_acquire_owned().ok()?;
        Some(Slot {
            participant,
            slots: self.clone(),
            _permit: permit,
        })
    }
}

impl Slot {
    /// Exchanges the slot for one of `participant`. False, without a change, when none is free.
    pub(super) fn switch_to(&mut self, participant: Participant) -> bool {
        if participant == self.participant {
            return true;
        }
        let Some(slot) = self.slots.try_acquire(participant) else {
            return false;
        };
        *self = slot;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saga_exchanges_its_slot_only_for_a_free_one() {
        let slots = Slots::new(1);
        let mut slot = slots.acquire_all(Participant::Payment).remove(0);
        assert!(slots.acquire_all(Participant::Payment).is_empty());
        let claims = slots.acquire_all(Participant::Claims);
        assert!(slot.switch_to(Participant::Payment) && !slot.switch_to(Participant::Claims));
        drop(claims);
        assert!(slot.switch_to(Participant::Claims));
        assert!(slots.acquire_all(Participant::Claims).is_empty());
        assert_eq!(slots.acquire_all(Participant::Payment).len(), 1);
    }
}

//! Where the worker drives sagas: every participant has slots of its own, so that those that wait for a slow one leave the
//! others theirs.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Participant;

/// The slots that are free. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    claims: Arc<Semaphore>,
    payment: Arc<Semaphore>,
}

/// One saga's slot, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    participant: Participant,
    slots: Slots,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// So many for each participant.
    pub(super) fn new(each: usize) -> Slots {
        Slots {
            claims: Arc::new(Semaphore::new(each)),
            payment: Arc::new(Semaphore::new(each)),
        }
    }

    /// All slots at a participant that are free.
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
    /// OrderNotifier to a slot at `participant`; false, and it stays what it is, when none is free there.
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
    fn a_saga_moves_on_to_a_participant_that_has_a_place_and_gives_its_own_up() {
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

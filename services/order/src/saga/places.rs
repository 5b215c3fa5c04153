//! Where the worker drives sagas: every participant has places of its own, so that those that wait for a slow one leave the
//! others theirs.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Participant;

/// The places that are free. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places {
    claims: Arc<Semaphore>,
    payment: Arc<Semaphore>,
}

/// One saga's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    participant: Participant,
    places: Places,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many for each participant.
    pub(super) fn new(each: usize) -> Places {
        Places {
            claims: Arc::new(Semaphore::new(each)),
            payment: Arc::new(Semaphore::new(each)),
        }
    }

    /// All places at a participant that are free.
    pub(super) fn take_all(&self, participant: Participant) -> Vec<Place> {
        std::iter::from_fn(|| self.take(participant)).collect()
    }

    fn take(&self, participant: Participant) -> Option<Place> {
        let semaphore = match participant {
            Participant::Claims => &self.claims,
            Participant::Payment => &self.payment,
        };
        let permit = Arc::clone(semaphore).try_acquire_owned().ok()?;
        Some(Place {
            participant,
            places: self.clone(),
            _permit: permit,
        })
    }
}

impl Place {
    /// Changes to a place at `participant`; false, and it stays what it is, when none is free there.
    pub(super) fn moves_to(&mut self, participant: Participant) -> bool {
        if participant == self.participant {
            return true;
        }
        let Some(place) = self.places.take(participant) else {
            return false;
        };
        *self = place;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saga_moves_on_to_a_participant_that_has_a_place_and_gives_its_own_up() {
        let places = Places::new(1);
        let mut place = places.take_all(Participant::Payment).remove(0);
        assert!(places.take_all(Participant::Payment).is_empty());
        let claims = places.take_all(Participant::Claims);
        assert!(place.moves_to(Participant::Payment) && !place.moves_to(Participant::Claims));
        drop(claims);
        assert!(place.moves_to(Participant::Claims));
        assert!(places.take_all(Participant::Claims).is_empty());
        assert_eq!(places.take_all(Participant::Payment).len(), 1);
    }
}

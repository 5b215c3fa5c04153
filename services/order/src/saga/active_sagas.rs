//! The orders whose sagas this process is driving. Events about them are recorded here, without a database write.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

/// The orders whose sagas are driven in this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ActiveSagas(Arc<Mutex<HashMap<Uuid, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    drivers: u32,
    /// An event about the order has been received since this process began to drive the saga.
    notified: bool,
    /// The saga is being saved as waiting.
    waiting: bool,
}

/// While this exists, the order's saga is driven here.
pub(super) struct ActiveGuard {
    active_sagas: ActiveSagas,
    /// `None`: already ended.
    order: Option<Uuid>,
}

impl ActiveSagas {
    pub(super) fn begin(&self, order: Uuid) -> ActiveGuard {
        self.with(|entries| entries.entry(order).or_default().drivers += 1);
        ActiveGuard {
            active_sagas: self.clone(),
            order: Some(order),
        }
    }

    /// Records that an event about the order was received, which its saga may be waiting for. False: its saga is
    /// not driven here, or is being saved as waiting; then the caller must wake it in the database.
    pub fn notify(&self, order: Uuid) -> bool {
        self.with(|entries| match entries.get_mut(&order) {
            Some(entry) if !entry.waiting => {
                entry.notified = true;
                true
            }
            _ => false,
        })
    }

    /// Records that the saga is about to be saved as waiting. True: an event was received in the meantime, so it
    /// need not wait.
    pub(super) fn mark_waiting(&self, order: Uuid) -> bool {
        self.with(|entries| {
            entries.get_mut(&order).is_some_and(|entry| {
                entry.waiting = true;
                entry.notified
            })
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<Uuid, Entry>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ActiveGuard {
    /// Removes the order; true when an event about it was received in the meantime.
    pub(super) fn end(mut self) -> bool {
        self.remove()
    }

    fn remove(&mut self) -> bool {
        let Some(order) = self.order.take() else {
            return false;
        };
        self.active_sagas.with(|entries| {
            let Some(entry) = entries.get_mut(&order) else {
                return false;
            };
            entry.drivers -= 1;
            let notified = entry.notified;
            if entry.drivers == 0 {
                entries.remove(&order);
            }
            notified
        })
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_recorded_until_the_last_driver_of_a_saga_ends() {
        let (active, order) = (ActiveSagas::default(), Uuid::new_v4());
        assert!(!active.notify(order));
        let (first, second) = (active.begin(order), active.begin(order));
        assert!(active.notify(order));
        assert!(!active.notify(Uuid::new_v4()));
        assert!(first.end());
        drop(second);
        assert!(!active.notify(order));
        assert!(!active.begin(order).end());
    }

    #[test]
    fn a_saga_that_is_being_saved_as_waiting_is_woken_in_the_database() {
        let (active, order) = (ActiveSagas::default(), Uuid::new_v4());
        let guard = active.begin(order);
        assert!(!active.mark_waiting(order));
        assert!(!active.notify(order));
        assert!(!guard.end());
        let guard = active.begin(order);
        assert!(active.notify(order));
        assert!(active.mark_waiting(order));
        assert!(guard.end());
    }
}

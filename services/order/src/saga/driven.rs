//! The orders whose sagas this process drives: what happens to one of them meanwhile is noted here, without a write.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

/// The orders whose sagas are driven here. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Driven(Arc<Mutex<HashMap<Uuid, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    drivers: u32,
    /// Something has happened to the order since its saga is driven.
    notified: bool,
    /// It is being written that the saga waits.
    parking: bool,
}

/// Until it ends, the order's saga is driven here.
pub(super) struct Driving {
    driven: Driven,
    /// `None`: it has ended.
    order: Option<Uuid>,
}

impl Driven {
    pub(super) fn begin(&self, order: Uuid) -> Driving {
        self.with(|driven| driven.entry(order).or_default().drivers += 1);
        Driving {
            driven: self.clone(),
            order: Some(order),
        }
    }

    /// Something has happened to an order that its saga may wait for. False: its saga is not driven here, or is written as
    /// waiting at this moment; then it is to be woken by its row.
    pub fn notify(&self, order: Uuid) -> bool {
        self.with(|driven| match driven.get_mut(&order) {
            Some(entry) if !entry.parking => {
                entry.notified = true;
                true
            }
            _ => false,
        })
    }

    /// It is written next that the order's saga waits. True: something has happened, and it need not wait.
    pub(super) fn park(&self, order: Uuid) -> bool {
        self.with(|driven| {
            driven.get_mut(&order).is_some_and(|entry| {
                entry.parking = true;
                entry.notified
            })
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<Uuid, Entry>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Driving {
    /// Ends it; true when something has happened to the order since it began.
    pub(super) fn end(mut self) -> bool {
        self.leave()
    }

    fn leave(&mut self) -> bool {
        let Some(order) = self.order.take() else {
            return false;
        };
        self.driven.with(|driven| {
            let Some(entry) = driven.get_mut(&order) else {
                return false;
            };
            entry.drivers -= 1;
            let notified = entry.notified;
            if entry.drivers == 0 {
                driven.remove(&order);
            }
            notified
        })
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_while_a_saga_is_driven_is_noted_until_its_last_driver_ends() {
        let (driven, order) = (Driven::default(), Uuid::new_v4());
        assert!(!driven.notify(order));
        let (first, second) = (driven.begin(order), driven.begin(order));
        assert!(driven.notify(order));
        assert!(!driven.notify(Uuid::new_v4()));
        assert!(first.end());
        drop(second);
        assert!(!driven.notify(order));
        assert!(!driven.begin(order).end());
    }

    #[test]
    fn a_saga_that_is_written_as_waiting_is_woken_by_its_row() {
        let (driven, order) = (Driven::default(), Uuid::new_v4());
        let driving = driven.begin(order);
        assert!(!driven.park(order));
        assert!(!driven.notify(order));
        assert!(!driving.end());
        let driving = driven.begin(order);
        assert!(driven.notify(order));
        assert!(driven.park(order));
        assert!(driving.end());
    }
}

//! Tells those in this process who wait for an order that it has changed: at once when this process has changed it, and
//! by one look at the database for all of them when another replica has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chassis::{Facility, postgres::Database};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::orders::{self, Mark};

/// Orders that one statement looks at.
const BATCH: usize = 1_000;

/// The orders that somebody waits for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    waited_for: Arc<Mutex<HashMap<Uuid, Waited>>>,
    subscribed: Arc<Notify>,
}

#[derive(Debug)]
struct Waited {
    facility: Facility,
    changed: watch::Sender<()>,
    /// As it was at the last look at the database.
    mark: Option<Mark>,
}

/// Hears of the changes of one order, from its creation on.
#[derive(Debug)]
pub struct Subscription {
    order_id: Uuid,
    changes: Changes,
    receiver: watch::Receiver<()>,
}

impl Changes {
    /// Begins to listen. Subscribe before reading the order, so that nothing falls in between.
    pub fn subscribe(&self, facility: &Facility, order_id: Uuid) -> Subscription {
        let receiver = self
            .lock()
            .entry(order_id)
            .or_insert_with(|| Waited {
                facility: facility.clone(),
                changed: watch::Sender::new(()),
                mark: None,
            })
            .changed
            .subscribe();
        self.subscribed.notify_one();
        Subscription {
            order_id,
            changes: self.clone(),
            receiver,
        }
    }

    /// An order has changed, and the change is committed.
    pub fn tell(&self, order_id: Uuid) {
        if let Some(waited) = self.lock().get(&order_id) {
            waited.changed.send_replace(());
        }
    }

    /// Looks at the orders that are waited for, `every` so often, facility by facility on one connection, until
    /// cancelled. While the database is away nothing is told; readiness says so.
    pub async fn poll(self, database: Database, every: Duration, stop: CancellationToken) {
        loop {
            let pause = async {
                if self.lock().is_empty() {
                    self.subscribed.notified().await;
                }
                tokio::time::sleep(every).await;
            };
            tokio::select! {
                () = pause => {}
                () = stop.cancelled() => return,
            }
            for (facility, ids) in self.by_facility() {
                for ids in ids.chunks(BATCH) {
                    match look(&database, &facility, ids).await {
                        Ok(marks) => self.compare(&marks),
                        Err(error) => {
                            tracing::debug!(error.message = %error, "orders that are waited for cannot be looked at");
                        }
                    }
                }
            }
        }
    }

    fn by_facility(&self) -> HashMap<Facility, Vec<Uuid>> {
        let mut facilities: HashMap<Facility, Vec<Uuid>> = HashMap::new();
        for (id, waited) in &*self.lock() {
            facilities.entry(waited.facility.clone()).or_default().push(*id);
        }
        facilities
    }

    /// Tells of the orders that are no longer as they were. The first look is told of, too: the reader may have read
    /// before it.
    fn compare(&self, marks: &[(Uuid, Mark)]) {
        let mut waited_for = self.lock();
        for (id, mark) in marks {
            if let Some(waited) = waited_for.get_mut(id)
                && waited.mark != Some(*mark)
            {
                waited.mark = Some(*mark);
                waited.changed.send_replace(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Waited>> {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(
    database: &Database,
    facility: &Facility,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Mark)>, sqlx::Error> {
    let mut tx = database.begin(facility).await?;
    let marks = orders::marks(&mut tx, ids).await?;
    tx.commit().await?;
    Ok(marks)
}

impl Subscription {
    /// Returns once the order has changed since the last call.
    pub async fn changed(&mut self) {
        // The sender stays as long as this subscription, so waiting cannot fail.
        let _ = self.receiver.changed().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waited_for = self.changes.lock();
        // This receiver still counts.
        if waited_for
            .get(&self.order_id)
            .is_some_and(|waited| waited.changed.receiver_count() <= 1)
        {
            waited_for.remove(&self.order_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn facility(name: &str) -> Facility {
        Facility::new(name).unwrap()
    }

    #[tokio::test]
    async fn a_change_between_subscribing_and_waiting_is_heard() {
        let changes = Changes::default();
        let order_id = Uuid::now_v7();
        let mut subscription = changes.subscribe(&facility("F1"), order_id);
        changes.tell(order_id);
        subscription.changed().await;
    }

    #[tokio::test]
    async fn nothing_is_kept_of_orders_that_nobody_waits_for() {
        let changes = Changes::default();
        let order_id = Uuid::now_v7();
        let (first, second) = (
            changes.subscribe(&facility("F1"), order_id),
            changes.subscribe(&facility("F1"), order_id),
        );
        drop(first);
        assert_eq!(changes.lock().len(), 1);
        drop(second);
        assert!(changes.lock().is_empty());
    }

    #[tokio::test]
    async fn what_another_replica_changed_is_told_to_all_who_wait_for_it_and_only_once() {
        let changes = Changes::default();
        let (order_id, other) = (Uuid::now_v7(), Uuid::now_v7());
        let mut waiting: Vec<_> = (0..1_000)
            .map(|_| changes.subscribe(&facility("F1"), order_id))
            .collect();
        let mut unchanged = changes.subscribe(&facility("F2"), other);
        let mark = |version| Mark {
            version,
            pending_refunds: 0,
        };
        // However many wait, an order is looked at once.
        let looked_at = changes.by_facility();
        assert_eq!(looked_at[&facility("F1")], [order_id]);
        assert_eq!(looked_at[&facility("F2")], [other]);
        changes.compare(&[(order_id, mark(1)), (other, mark(7))]);
        unchanged.changed().await;
        for subscription in &mut waiting {
            subscription.changed().await;
        }
        changes.compare(&[(order_id, mark(2)), (other, mark(7))]);
        for subscription in &mut waiting {
            subscription.changed().await;
            assert!(subscription.changed().now_or_never().is_none());
        }
        assert!(unchanged.changed().now_or_never().is_none());
    }
}

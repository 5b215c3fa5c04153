//! Notifies the subscribers in this process when an order has changed: at once when this process has changed it,
//! and by polling the database, with one query for all orders, when another replica has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chassis::{Facility, postgres::Database};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::orders::{self, Revision};

/// Orders that one statement reads.
const BATCH: usize = 1_000;

/// The orders that have subscribers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OrderNotifier {
    watched_orders: Arc<Mutex<HashMap<Uuid, Watched>>>,
    subscribed: Arc<Notify>,
}

#[derive(Debug)]
struct Watched {
    facility: Facility,
    changed: watch::Sender<()>,
    /// The revision at the last poll.
    revision: Option<Revision>,
}

/// Receives the changes of one order since it was subscribed.
#[derive(Debug)]
pub struct Subscription {
    order_id: Uuid,
    notifier: OrderNotifier,
    receiver: watch::Receiver<()>,
}

impl OrderNotifier {
    /// Subscribes to an order. Subscribe before reading the order, so that no change between the two is missed.
    pub fn subscribe(&self, facility: &Facility, order_id: Uuid) -> Subscription {
        let receiver = self
            .lock()
            .entry(order_id)
            .or_insert_with(|| Watched {
                facility: facility.clone(),
                changed: watch::Sender::new(()),
                revision: None,
            })
            .changed
            .subscribe();
        self.subscribed.notify_one();
        Subscription {
            order_id,
            notifier: self.clone(),
            receiver,
        }
    }

    /// Notifies the subscribers of an order after its change was committed.
    pub fn notify(&self, order_id: Uuid) {
        if let Some(watched) = self.lock().get(&order_id) {
            watched.changed.send_replace(());
        }
    }

    /// Polls the orders that have subscribers at this interval, one facility after the other on one connection,
    /// until cancelled. While the database is down no notification is sent; readiness reports the outage.
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
                    match read_revisions(&database, &facility, ids).await {
                        Ok(revisions) => self.notify_changed(&revisions),
                        Err(error) => {
                            tracing::debug!(error.message = %error, "polling for changed orders failed");
                        }
                    }
                }
            }
        }
    }

    fn by_facility(&self) -> HashMap<Facility, Vec<Uuid>> {
        let mut facilities: HashMap<Facility, Vec<Uuid>> = HashMap::new();
        for (id, watched) in &*self.lock() {
            facilities.entry(watched.facility.clone()).or_default().push(*id);
        }
        facilities
    }

    /// Notifies the subscribers of orders that have another revision than at the last poll. The first poll
    /// notifies too, because the subscriber may have read the order before it.
    fn notify_changed(&self, revisions: &[(Uuid, Revision)]) {
        let mut watched_orders = self.lock();
        for (id, revision) in revisions {
            if let Some(watched) = watched_orders.get_mut(id)
                && watched.revision != Some(*revision)
            {
                watched.revision = Some(*revision);
                watched.changed.send_replace(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Watched>> {
        self.watched_orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_revisions(
    database: &Database,
    facility: &Facility,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Revision)>, sqlx::Error> {
    let mut tx = database.begin(facility).await?;
    let revisions = orders::list_revisions(&mut tx, ids).await?;
    tx.commit().await?;
    Ok(revisions)
}

impl Subscription {
    /// Returns once the order has changed since the last call.
    pub async fn changed(&mut self) {
        // Cannot fail: the sender exists as long as this subscription.
        let _ = self.receiver.changed().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut watched_orders = self.notifier.lock();
        // The count still includes this receiver.
        if watched_orders
            .get(&self.order_id)
            .is_some_and(|watched| watched.changed.receiver_count() <= 1)
        {
            watched_orders.remove(&self.order_id);
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
    async fn a_change_between_subscribing_and_waiting_is_received() {
        let notifier = OrderNotifier::default();
        let order_id = Uuid::now_v7();
        let mut subscription = notifier.subscribe(&facility("F1"), order_id);
        notifier.notify(order_id);
        subscription.changed().await;
    }

    #[tokio::test]
    async fn orders_without_subscribers_are_forgotten() {
        let notifier = OrderNotifier::default();
        let order_id = Uuid::now_v7();
        let (first, second) = (
            notifier.subscribe(&facility("F1"), order_id),
            notifier.subscribe(&facility("F1"), order_id),
        );
        drop(first);
        assert_eq!(notifier.lock().len(), 1);
        drop(second);
        assert!(notifier.lock().is_empty());
    }

    #[tokio::test]
    async fn a_change_by_another_replica_notifies_every_subscriber_once() {
        let notifier = OrderNotifier::default();
        let (order_id, other) = (Uuid::now_v7(), Uuid::now_v7());
        let mut waiting: Vec<_> = (0..1_000)
            .map(|_| notifier.subscribe(&facility("F1"), order_id))
            .collect();
        let mut unchanged = notifier.subscribe(&facility("F2"), other);
        let revision = |version| Revision {
            version,
            pending_refunds: 0,
        };
        // The number of subscribers does not matter: each order is read once.
        let looked_at = notifier.by_facility();
        assert_eq!(looked_at[&facility("F1")], [order_id]);
        assert_eq!(looked_at[&facility("F2")], [other]);
        notifier.notify_changed(&[(order_id, revision(1)), (other, revision(7))]);
        unchanged.changed().await;
        for subscription in &mut waiting {
            subscription.changed().await;
        }
        notifier.notify_changed(&[(order_id, revision(2)), (other, revision(7))]);
        for subscription in &mut waiting {
            subscription.changed().await;
            assert!(subscription.changed().now_or_never().is_none());
        }
        assert!(unchanged.changed().now_or_never().is_none());
    }
}

//! Tells those in this process who wait for an order that it has changed. Other replicas' changes are found by asking.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

/// The orders that somebody waits for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    waited_for: Arc<Mutex<HashMap<Uuid, watch::Sender<()>>>>,
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
    pub fn subscribe(&self, order_id: Uuid) -> Subscription {
        let receiver = self
            .lock()
            .entry(order_id)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        Subscription {
            order_id,
            changes: self.clone(),
            receiver,
        }
    }

    /// An order has changed, and the change is committed.
    pub fn tell(&self, order_id: Uuid) {
        if let Some(sender) = self.lock().get(&order_id) {
            sender.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<()>>> {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            waited_for.remove(&self.order_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_between_subscribing_and_waiting_is_heard() {
        let changes = Changes::default();
        let order_id = Uuid::now_v7();
        let mut subscription = changes.subscribe(order_id);
        changes.tell(order_id);
        subscription.changed().await;
    }

    #[tokio::test]
    async fn nothing_is_kept_of_orders_that_nobody_waits_for() {
        let changes = Changes::default();
        let order_id = Uuid::now_v7();
        let (first, second) = (changes.subscribe(order_id), changes.subscribe(order_id));
        drop(first);
        assert_eq!(changes.lock().len(), 1);
        drop(second);
        assert!(changes.lock().is_empty());
    }
}

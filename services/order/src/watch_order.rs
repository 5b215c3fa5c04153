//! WatchOrder: streams an order as it is, and again after every change, until its state is final. Only then the
//! stream ends with OK.

use chassis::{Facility, status};
use proto::order::v1::WatchOrderResponse;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tonic::Status;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    order_notifier::Subscription,
    read_orders::{self, Identifier},
    store,
};

/// Updates that are buffered for a slow reader. When the buffer is full, later changes are merged into one update
/// with the newest state.
const BUFFERED: usize = 4;

/// One watcher of one order.
pub struct Watch {
    app: App,
    facility: Facility,
    order_id: Uuid,
    subscription: Subscription,
    until: Instant,
}

/// The stream of one watcher.
pub type Updates = mpsc::Receiver<Result<WatchOrderResponse, Status>>;

impl Watch {
    /// Subscribes to the order. The server ends the stream at the call's deadline if that is earlier than the
    /// longest watch.
    pub fn new(app: &App, facility: Facility, order_id: Uuid) -> Watch {
        Watch {
            subscription: app.order_notifier.subscribe(&facility, order_id),
            app: app.clone(),
            facility,
            order_id,
            until: Instant::now() + app.orders.watch_max(),
        }
    }

    /// Sends the order as it is, then continues in the background.
    ///
    /// # Errors
    /// NOT_FOUND, also when the order belongs to another facility.
    pub async fn start(
        self,
        tasks: &chassis::Tasks,
        shutdown: tokio_util::sync::CancellationToken,
    ) -> Result<Updates, Error> {
        let (sender, updates) = mpsc::channel(BUFFERED);
        let (order, message) =
            read_orders::get(&self.app, &self.facility, &Identifier::Id(self.order_id)).await?;
        // Cannot fail: the receiver exists and the buffer is empty.
        let _ = sender.try_send(Ok(WatchOrderResponse { order: Some(message) }));
        if !order.state.is_final() {
            drop(tasks.run(async move {
                tokio::select! {
                    () = self.stream_updates(order.version, &sender) => {}
                    () = sender.closed() => {}
                    // The client reconnects to another replica. A client that does not read misses this status.
                    () = shutdown.cancelled() => drop(sender.try_send(Err(status::draining()))),
                }
            }));
        }
        Ok(updates)
    }

    async fn stream_updates(
        mut self,
        mut seen: i64,
        sender: &mpsc::Sender<Result<WatchOrderResponse, Status>>,
    ) {
        let mut failed = false;
        loop {
            tokio::select! {
                () = self.subscription.changed(), if !failed => {}
                () = sleep(self.app.orders.watch_poll()), if failed => {}
                () = sleep_until(self.until) => {
                    let _ = sender.send(Err(status::deadline_exceeded())).await;
                    return;
                }
            }
            let update = match self.read_if_changed(seen).await {
                Ok(None) => {
                    failed = false;
                    continue;
                }
                Ok(Some((version, last, update))) => {
                    failed = false;
                    seen = version;
                    if sender.send(Ok(update)).await.is_err() || last {
                        return;
                    }
                    continue;
                }
                // Retried once: a transient error may be gone at the next read.
                Err(error) if error.is_transient() && !failed => {
                    failed = true;
                    continue;
                }
                Err(error) => Status::from(error),
            };
            let _ = sender.send(Err(update)).await;
            return;
        }
    }

    /// The order, if its version differs from `seen`: its version, whether its state is final, and the update to
    /// send.
    async fn read_if_changed(&self, seen: i64) -> Result<Option<(i64, bool, WatchOrderResponse)>, Error> {
        let mut tx = self.app.database.begin(&self.facility).await?;
        let version = store::orders::get_version(&mut tx, self.order_id).await?;
        tx.commit().await?;
        if version == Some(seen) {
            return Ok(None);
        }
        let (order, message) =
            read_orders::get(&self.app, &self.facility, &Identifier::Id(self.order_id)).await?;
        let update = WatchOrderResponse { order: Some(message) };
        Ok(Some((order.version, order.state.is_final(), update)))
    }
}

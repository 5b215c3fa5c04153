//! Streams an order: as it is, and again whenever it has changed, until it has ended. Only then the stream ends OK.

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

/// OrderNotifier that a slow reader may lag behind before it is waited for; it then gets the newest state only.
const BUFFERED: usize = 4;

/// One watcher of one order.
pub struct Watch {
    app: App,
    facility: Facility,
    order_id: Uuid,
    subscription: Subscription,
    until: Instant,
}

/// The watcher's stream.
pub type Updates = mpsc::Receiver<Result<WatchOrderResponse, Status>>;

impl Watch {
    /// Begins to watch. The server ends the stream at its call's deadline, if that is earlier than the longest watch.
    pub fn new(app: &App, facility: Facility, order_id: Uuid) -> Watch {
        Watch {
            subscription: app.order_notifier.subscribe(&facility, order_id),
            app: app.clone(),
            facility,
            order_id,
            until: Instant::now() + app.orders.watch_max(),
        }
    }

    /// Sends the order as it is, then goes on in the background.
    ///
    /// # Errors
    /// NOT_FOUND, also for another facility's order.
    pub async fn start(
        self,
        tasks: &chassis::Tasks,
        shutdown: tokio_util::sync::CancellationToken,
    ) -> Result<Updates, Error> {
        let (sender, updates) = mpsc::channel(BUFFERED);
        let (order, message) =
            read_orders::get(&self.app, &self.facility, &Identifier::Id(self.order_id)).await?;
        // The receiver is at hand and has room.
        let _ = sender.try_send(Ok(WatchOrderResponse { order: Some(message) }));
        if !order.state.is_final() {
            drop(tasks.run(async move {
                tokio::select! {
                    () = self.stream_updates(order.version, &sender) => {}
                    () = sender.closed() => {}
                    // The reader comes back, and finds another replica. One that does not read hears nothing.
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
                    let _ = sender.send(Err(status::out_of_time())).await;
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
                // The next look may find what this one could not.
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

    /// The order, if it has moved on from `seen`: its version, whether it has ended, and what to tell.
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

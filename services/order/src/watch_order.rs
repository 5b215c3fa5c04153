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
    changes::Subscription,
    desk::Desk,
    error::Error,
    read_orders::{self, Name},
    store,
};

/// Changes that a slow reader may lag behind before it is waited for; it then gets the newest state only.
const BUFFERED: usize = 4;

/// One watcher of one order.
pub struct Watch {
    desk: Desk,
    facility: Facility,
    order_id: Uuid,
    changes: Subscription,
    until: Instant,
}

/// The watcher's stream.
pub type Updates = mpsc::Receiver<Result<WatchOrderResponse, Status>>;

impl Watch {
    /// Begins to watch. The server ends the stream at its call's deadline, if that is earlier than the longest watch.
    pub fn new(desk: &Desk, facility: Facility, order_id: Uuid) -> Watch {
        Watch {
            changes: desk.changes.subscribe(&facility, order_id),
            desk: desk.clone(),
            facility,
            order_id,
            until: Instant::now() + desk.orders.watch_max(),
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
        let (order, told) = read_orders::get(&self.desk, &self.facility, &Name::Id(self.order_id)).await?;
        // The receiver is at hand and has room.
        let _ = sender.try_send(Ok(WatchOrderResponse { order: Some(told) }));
        if !order.state.is_final() {
            drop(tasks.run(async move {
                tokio::select! {
                    () = self.follow(order.version, &sender) => {}
                    () = sender.closed() => {}
                    // The reader comes back, and finds another replica. One that does not read hears nothing.
                    () = shutdown.cancelled() => drop(sender.try_send(Err(status::draining()))),
                }
            }));
        }
        Ok(updates)
    }

    async fn follow(mut self, mut seen: i64, sender: &mpsc::Sender<Result<WatchOrderResponse, Status>>) {
        let mut failed = false;
        loop {
            tokio::select! {
                () = self.changes.changed(), if !failed => {}
                () = sleep(self.desk.orders.watch_poll()), if failed => {}
                () = sleep_until(self.until) => {
                    let _ = sender.send(Err(status::out_of_time())).await;
                    return;
                }
            }
            let update = match self.look(seen).await {
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
                Err(error) if error.is_passing() && !failed => {
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
    async fn look(&self, seen: i64) -> Result<Option<(i64, bool, WatchOrderResponse)>, Error> {
        let mut tx = self.desk.database.begin(&self.facility).await?;
        let version = store::orders::version(&mut tx, self.order_id).await?;
        tx.commit().await?;
        if version == Some(seen) {
            return Ok(None);
        }
        let (order, told) = read_orders::get(&self.desk, &self.facility, &Name::Id(self.order_id)).await?;
        let update = WatchOrderResponse { order: Some(told) };
        Ok(Some((order.version, order.state.is_final(), update)))
    }
}

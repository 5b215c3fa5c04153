//! Sets up the broker's consumer before its messages are pulled.

use std::{ops::RangeInclusive, sync::atomic::Ordering, time::Duration};

use async_nats::jetstream::consumer::PullConsumer;
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    catch_up::{self, CatchUp, FilteredConsumer},
};
use crate::Error;

pub(super) struct Setup {
    pub(super) consumer: PullConsumer,
    /// The process may have crashed on any message in this range of sequences. Empty: no message was
    /// unacknowledged.
    pub(super) suspects: RangeInclusive<u64>,
    pub(super) catch_up: Option<CatchUp>,
    /// The consumer sequence of the next delivery. `None`: taken from the first one.
    pub(super) expected: Option<u64>,
}

/// Creates or updates the consumer and resets it to its acknowledgement floor, so that the messages a former owner
/// had in progress come first and in order.
pub(super) async fn set_up(
    worker: &Worker,
    subjects: &[String],
    epoch: i64,
    stop: &CancellationToken,
) -> Result<Setup, Error> {
    let settings = worker.settings();
    let ack_wait = Duration::from_millis(settings.ack_wait_ms);
    let mut filtered = catch_up::apply_filter(&worker.bus, &worker.pool, &worker.name, subjects).await?;
    let info = filtered.consumer.info().await.map_err(Error::broker)?.clone();
    let acknowledged = info.ack_floor.stream_sequence;
    let delivered = info.delivered.stream_sequence;
    if info.num_ack_pending == 0 {
        filtered.rewind(&worker.bus, &worker.pool, subjects).await?;
        let info = filtered.consumer.cached_info();
        return Ok(Setup {
            expected: Some(info.delivered.consumer_sequence + 1),
            consumer: filtered.consumer,
            suspects: RangeInclusive::new(1, 0),
            catch_up: filtered.catch_up,
        });
    }
    let suspects = acknowledged + 1..=delivered;
    if worker.disconnected.swap(false, Ordering::Relaxed) {
        // The connection may have been lost because of one of these.
        let filters = &info.config.filter_subjects;
        worker
            .dead_letter_unreadable(filters, epoch, acknowledged, delivered)
            .await?;
    }
    if filtered.rewind(&worker.bus, &worker.pool, subjects).await? {
        let info = filtered.consumer.cached_info();
        return Ok(Setup {
            expected: Some(info.delivered.consumer_sequence + 1),
            consumer: filtered.consumer,
            suspects,
            catch_up: filtered.catch_up,
        });
    }
    let FilteredConsumer {
        mut consumer,
        catch_up,
        ..
    } = filtered;
    let expected = match consumer.reset(None).await {
        Ok(reset) => Some(reset.info.delivered.consumer_sequence + 1),
        Err(error) => {
            // A server before 2.14 cannot reset. It redelivers unacknowledged messages first, in order, once their
            // wait is over.
            tracing::info!(consumer = worker.name, error = %error, "waiting for the redelivery of unacknowledged messages");
            tokio::select! {
                () = tokio::time::sleep(ack_wait + Duration::from_secs(1)) => {}
                () = stop.cancelled() => {}
            }
            None
        }
    };
    Ok(Setup {
        consumer,
        suspects,
        catch_up,
        expected,
    })
}

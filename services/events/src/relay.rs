use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Bus, Error,
    envelope::Headers,
    metrics,
    rebuild::{self, Rebuild},
};

mod in_flight;
mod lanes;
mod outgoing;
mod publish;

use in_flight::{Backoff, InFlight};
use lanes::Lanes;

/// Publishes the outbox: reads the lanes it owns in order, publishes, and removes what the broker has
/// acknowledged.
///
/// Any number of relays share the sixteen lanes. A relay that crashes loses its lanes after `relay.lease_ms`.
pub struct Relay {
    bus: Bus,
    pool: PgPool,
    metrics: metrics::Relay,
}

/// From this number of events on the full gather time is waited. A message in a batch of 50 costs the broker a
/// quarter of a message published alone, and one in a batch of 200 a tenth.
const FULL_GATHER_EVENTS: usize = 50;

/// As long is waited after few events too, if `gather_ms` allows it: the transactions of one order, some milliseconds
/// apart, share a batch, and consumers take their events together.
const MIN_GATHER_TIME: Duration = Duration::from_millis(30);

/// A message that waits to be published.
pub(crate) struct Pending {
    pub(crate) id: i64,
    pub(crate) lane: i16,
    pub(crate) message_id: String,
    pub(crate) subject: String,
    pub(crate) headers: Headers,
    pub(crate) body: bytes::Bytes,
    /// An event of the log; otherwise a notice.
    pub(crate) is_event: bool,
    pub(crate) aggregate_id: Uuid,
    /// How often the broker has refused it.
    pub(crate) attempts: i32,
}

/// The state of a running relay.
struct RunState {
    lanes: Lanes,
    in_flight: InFlight,
    /// The broker's generation at which the relay last ensured that the stream holds the log.
    generation: u64,
    /// There may be rows to read.
    read_due: bool,
    /// There are more rows than one batch takes. Only then are several batches sent at a time; otherwise rows that
    /// wait for a batch to finish share the next one.
    backlog: bool,
    /// Rows that are written soon after others wait until then and share a batch.
    gather_until: Instant,
    backoff: Backoff,
}

impl Relay {
    /// `pool` is the service's own database, as the role that serves.
    pub fn new(bus: &Bus, pool: &PgPool) -> Self {
        Self {
            bus: bus.clone(),
            pool: pool.clone(),
            metrics: metrics::Relay::new(),
        }
    }

    /// Runs until `shutdown`, whatever fails: while the database or the broker is unavailable, the outbox backs
    /// up.
    ///
    /// # Errors
    /// When one of its own tasks fails to run.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let settings = &self.bus.settings().relay;
        let mut state = RunState {
            lanes: Lanes::new(Uuid::new_v4(), Duration::from_millis(settings.lease_ms)),
            in_flight: InFlight::new(),
            generation: 0,
            read_due: true,
            backlog: false,
            gather_until: Instant::now(),
            backoff: Backoff::default(),
        };
        let outbox = self.bus.outbox();
        let mut poll = tokio::time::interval(Duration::from_millis(settings.poll_ms));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !shutdown.is_cancelled() {
            if state.should_read(&self.bus) && self.read(&mut state).await {
                continue;
            }
            tokio::select! {
                published = state.in_flight.next_result() => self.metrics.record_published(published?),
                () = outbox.notified() => state.read_due = true,
                _ = poll.tick() => state.read_due = true,
                () = tokio::time::sleep_until(state.gather_until), if state.read_due && !state.gather_time_is_over() => {}
                () = shutdown.cancelled() => {}
            }
        }
        // Publishes the events of the last calls, up to one page.
        if state.in_flight.is_empty() && state.backoff.is_over() && self.bus.is_ready() {
            self.read(&mut state).await;
        }
        // A publish that is aborted would be repeated.
        while !state.in_flight.is_empty() {
            self.metrics
                .record_published(state.in_flight.next_result().await?);
        }
        if let Err(error) = state.lanes.release(&self.pool).await {
            tracing::warn!(error = %error, "the relay's lanes could not be released; their leases expire by themselves");
        }
        Ok(())
    }

    /// Reads and publishes. True: there is more to do at once.
    async fn read(&self, state: &mut RunState) -> bool {
        match self.advance(state).await {
            Ok(more) => {
                state.backoff = Backoff::default();
                more
            }
            Err(error) => {
                state.backoff.fail();
                let failures = state.backoff.failures();
                tracing::warn!(error = %error, failures, "the outbox cannot be read; the read is retried");
                false
            }
        }
    }

    async fn advance(&self, state: &mut RunState) -> Result<bool, Error> {
        let current = self.bus.generation();
        if state.generation != current || state.lanes.renewal_is_due() {
            // Batches in flight belong to the old stream and the old lanes.
            if !state.in_flight.is_empty() {
                return Ok(false);
            }
            if state.generation != current {
                if rebuild::republish_after_loss(&self.bus, &self.pool).await? == Rebuild::InProgress {
                    return Ok(true);
                }
                state.generation = current;
            }
            state.lanes.renew_and_balance(&self.pool).await?;
        }
        let (lanes, batches) = state.in_flight.idle_lanes(state.lanes.owned());
        if lanes.is_empty() {
            return Ok(false);
        }
        let batch = self.bus.settings().relay.batch as usize;
        let pending = state.lanes.read(&self.pool, &lanes, batch * batches).await?;
        if !state.lanes.lease_is_valid() {
            return Ok(true);
        }
        let full = pending.len() == batch * batches;
        if !pending.is_empty() {
            state.gather_until = Instant::now() + self.gather_time(pending.len());
        }
        let truncated = state.in_flight.publish(&self.bus, &self.pool, pending, batch);
        state.read_due = full || truncated;
        state.backlog = state.read_due;
        Ok(state.read_due)
    }

    /// How long the next events wait for others: the more were published, the longer.
    fn gather_time(&self, events: usize) -> Duration {
        gather_time(Duration::from_millis(self.bus.settings().relay.gather_ms), events)
    }
}

fn gather_time(longest: Duration, events: usize) -> Duration {
    let by_events = longest.mul_f64(events.min(FULL_GATHER_EVENTS) as f64 / FULL_GATHER_EVENTS as f64);
    by_events.max(MIN_GATHER_TIME).min(longest)
}

impl RunState {
    fn should_read(&self, bus: &Bus) -> bool {
        let worthwhile = self.backlog || (self.in_flight.is_empty() && self.gather_time_is_over());
        self.read_due && worthwhile && self.backoff.is_over() && bus.is_ready()
    }

    fn gather_time_is_over(&self) -> bool {
        Instant::now() >= self.gather_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_more_events_grows_with_those_just_published() {
        for (longest, events, wait) in [
            (100, 1, 30),
            (100, 25, 50),
            (100, 500, 100),
            (10, 1, 10),
            (0, 500, 0),
        ] {
            let time = gather_time(Duration::from_millis(longest), events);
            assert_eq!(time, Duration::from_millis(wait), "{longest} ms, {events} events");
        }
    }
}

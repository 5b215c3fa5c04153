use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Bus, Error,
    envelope::Headers,
    meters::Publishing,
    rebuild::{self, Rebuild},
};

mod flights;
mod lanes;
mod outgoing;
mod publish;

use flights::{Backoff, Flights};
use lanes::Lanes;

/// Publishes the outbox: reads the lanes it owns in order, publishes, and takes out what the broker has acknowledged.
///
/// Any number of relays share the sixteen lanes; one that dies loses its lanes after `relay.lease_ms`.
pub struct Relay {
    bus: Bus,
    pool: PgPool,
    meters: Publishing,
}

/// Events that are worth the whole time of gathering: a message of a batch of so many costs the broker a quarter of one that is
/// published by itself, and one of a batch of 200 a tenth.
const MANY: usize = 50;

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

/// Where a relay stands.
struct Course {
    lanes: Lanes,
    flights: Flights,
    /// The streams as they were when the relay last made sure that they hold the log.
    generation: u64,
    /// There may be rows to read.
    look: bool,
    /// There are more rows than one batch takes. Only then is it worth to have several on their way: else rows that
    /// wait for a batch to land share the next one.
    backlog: bool,
    /// Rows that come soon after others wait until then and share a batch.
    gather_until: Instant,
    backoff: Backoff,
}

impl Relay {
    /// `pool` is the service's own database, as the role that serves.
    pub fn new(bus: &Bus, pool: &PgPool) -> Self {
        Self {
            bus: bus.clone(),
            pool: pool.clone(),
            meters: Publishing::new(),
        }
    }

    /// Runs until `shutdown`, whatever fails: while the database or the broker is away, the outbox backs up.
    ///
    /// # Errors
    /// None as long as its own tasks can run.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let settings = &self.bus.settings().relay;
        let mut course = Course {
            lanes: Lanes::new(Uuid::new_v4(), Duration::from_millis(settings.lease_ms)),
            flights: Flights::new(),
            generation: 0,
            look: true,
            backlog: false,
            gather_until: Instant::now(),
            backoff: Backoff::default(),
        };
        let outbox = self.bus.outbox();
        let mut poll = tokio::time::interval(Duration::from_millis(settings.poll_ms));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !shutdown.is_cancelled() {
            if course.may_read(&self.bus) && self.read(&mut course).await {
                continue;
            }
            tokio::select! {
                published = course.flights.landed() => self.meters.sent(published?),
                () = outbox.woken() => course.look = true,
                _ = poll.tick() => course.look = true,
                () = tokio::time::sleep_until(course.gather_until), if course.look && !course.has_gathered() => {}
                () = shutdown.cancelled() => {}
            }
        }
        // What the last calls have left, as far as a page goes.
        if course.flights.is_empty() && course.backoff.is_over() && self.bus.is_ready() {
            self.read(&mut course).await;
        }
        // A publish that is cut short would be published again.
        while !course.flights.is_empty() {
            self.meters.sent(course.flights.landed().await?);
        }
        if let Err(error) = course.lanes.release(&self.pool).await {
            tracing::warn!(error = %error, "the relay's lanes could not be released; they run out by themselves");
        }
        Ok(())
    }

    /// Reads and sends. True: there is more to be done at once.
    async fn read(&self, course: &mut Course) -> bool {
        match self.advance(course).await {
            Ok(more) => {
                course.backoff = Backoff::default();
                more
            }
            Err(error) => {
                course.backoff.fail();
                let failures = course.backoff.failures();
                tracing::warn!(error = %error, failures, "the outbox cannot be read; it will be tried again");
                false
            }
        }
    }

    async fn advance(&self, course: &mut Course) -> Result<bool, Error> {
        let current = self.bus.generation();
        if course.generation != current || course.lanes.are_due() {
            // What is on its way belongs to the old stream and the old lanes.
            if !course.flights.is_empty() {
                return Ok(false);
            }
            if course.generation != current {
                if rebuild::after_loss(&self.bus, &self.pool).await? == Rebuild::Goes {
                    return Ok(true);
                }
                course.generation = current;
            }
            course.lanes.keep(&self.pool).await?;
        }
        let (lanes, batches) = course.flights.free(course.lanes.held());
        if lanes.is_empty() {
            return Ok(false);
        }
        let batch = self.bus.settings().relay.batch as usize;
        let pending = course.lanes.read(&self.pool, &lanes, batch * batches).await?;
        if !course.lanes.are_current() {
            return Ok(true);
        }
        let full = pending.len() == batch * batches;
        if !pending.is_empty() {
            course.gather_until = Instant::now() + self.gathering(pending.len());
        }
        let cut = course.flights.launch(&self.bus, &self.pool, pending, batch);
        course.look = full || cut;
        course.backlog = course.look;
        Ok(course.look)
    }

    /// How long events that come after these wait for others: the more come, the longer. Few go almost at once.
    fn gathering(&self, events: usize) -> Duration {
        let longest = Duration::from_millis(self.bus.settings().relay.gather_ms);
        longest.mul_f64(events.min(MANY) as f64 / MANY as f64)
    }
}

impl Course {
    fn may_read(&self, bus: &Bus) -> bool {
        let worth = self.backlog || (self.flights.is_empty() && self.has_gathered());
        self.look && worth && self.backoff.is_over() && bus.is_ready()
    }

    fn has_gathered(&self) -> bool {
        Instant::now() >= self.gather_until
    }
}

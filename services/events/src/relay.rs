use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Bus, Error, meters::Publishing, rebuild};

mod lanes;
mod publish;

use lanes::Lanes;

const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Publishes the outbox: reads the lanes it owns in order, publishes, and deletes what the broker has acknowledged.
///
/// Any number of relays share the sixteen lanes; one that dies loses its lanes after `relay.lease_ms`.
pub struct Relay {
    bus: Bus,
    pool: PgPool,
    meters: Publishing,
}

/// A row of the outbox.
pub(crate) struct Pending {
    pub(crate) id: i64,
    pub(crate) lane: i16,
    pub(crate) message_id: String,
    pub(crate) subject: String,
    pub(crate) headers: serde_json::Value,
    pub(crate) body: Vec<u8>,
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
    /// None at present; the signature is that of every supervised task.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let settings = &self.bus.settings().relay;
        let ttl = Duration::from_millis(settings.lease_ms);
        let mut lanes = Lanes::new(Uuid::new_v4(), ttl);
        let outbox = self.bus.outbox();
        let mut failures = 0_u32;
        let mut generation = 0;
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = self.bus.ready() => {}
                () = shutdown.cancelled() => break,
            }
            // Not raced against the shutdown: a publish that is cut short would be published again.
            let pause = match self.step(&mut lanes, &mut generation).await {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) => {
                    failures = 0;
                    Duration::from_millis(settings.poll_ms)
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(error = %error, failures, "the outbox cannot be published; it will be tried again");
                    (Duration::from_millis(50) * (1 << failures.min(7))).min(MAX_BACKOFF)
                }
            };
            tokio::select! {
                () = outbox.woken(), if failures == 0 => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => break,
            }
        }
        if let Err(error) = lanes.release(&self.pool).await {
            tracing::warn!(error = %error, "the relay's lanes could not be released; they run out by themselves");
        }
        Ok(())
    }

    /// One batch. True: there may be more.
    async fn step(&self, lanes: &mut Lanes, generation: &mut u64) -> Result<bool, Error> {
        let current = self.bus.generation();
        if *generation != current {
            rebuild::after_loss(&self.bus, &self.pool).await?;
            *generation = current;
        }
        lanes.keep(&self.pool).await?;
        let batch = i64::from(self.bus.settings().relay.batch);
        let pending = lanes.read(&self.pool, batch).await?;
        if pending.is_empty() {
            return Ok(false);
        }
        let full = pending.len() as i64 == batch;
        if !lanes.are_current() {
            return Ok(true);
        }
        let (published, failure) = publish::all(&self.bus, &pending).await;
        // Deleting needs no fence: these are acknowledged, whoever owns the lane by now.
        sqlx::query!("delete from events.outbox where id = any($1)", &published)
            .execute(&self.pool)
            .await?;
        self.meters.sent(published.len());
        failure.map_or(Ok(full), Err)
    }
}

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Bus, Error, Handler, handler::DynHandler, lease::Lease, metrics, registration::Registration,
    settings::ConsumerSettings,
};

mod attempt;
mod batch;
mod batch_size;
mod catch_up;
mod dead_letter;
mod definition;
mod message;
mod pull_loop;
mod queue;
mod replay;
mod setup;
mod store;
mod unreadable;

use batch_size::BatchSize;
pub(crate) use catch_up::apply_filter;
pub(crate) use definition::definition;
use pull_loop::Exit;

/// A named subscription of a service. Its position, failures and dead letters are stored under the name.
pub struct Consumer {
    name: &'static str,
    subjects: Vec<String>,
    handler: Arc<dyn DynHandler>,
    handler_version: String,
}

/// Shared state of all attempts of one consumer.
struct Worker {
    bus: Bus,
    pool: PgPool,
    name: String,
    handler: Arc<dyn DynHandler>,
    handler_version: String,
    lease: String,
    metrics: metrics::Consumer,
    batch_size: Mutex<BatchSize>,
    /// Counts the events that have taken effect in this process.
    effects: AtomicU64,
    /// The last pull loop ended because the connection to the broker was lost.
    disconnected: AtomicBool,
}

impl Consumer {
    /// `name` is unique in the installation and made of letters, digits and dashes: `payment-ledger`. `subjects`
    /// are `evt.<service>.<aggregate>.<event>`, wildcards allowed.
    pub fn new(name: &'static str, subjects: &[&str], handler: impl Handler) -> Self {
        Self {
            name,
            subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
            handler: Arc::new(handler),
            handler_version: String::new(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The build that handles events, recorded in dead letters: a version or a commit.
    #[must_use]
    pub fn handler_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.handler_version);
        self
    }

    /// Consumes until `shutdown`, whatever fails; then finishes the running attempts and returns.
    ///
    /// One process at a time consumes under a name, by lease, so that the order within an aggregate holds across
    /// processes. The others stand by.
    ///
    /// # Errors
    /// None at present; the signature is that of every supervised task.
    pub async fn run(self, bus: &Bus, pool: &PgPool, shutdown: CancellationToken) -> Result<(), Error> {
        let registration = Registration {
            subjects: self.subjects.clone(),
            handler: self.handler.clone(),
        };
        bus.register(self.name, registration);
        let worker = Arc::new(Worker {
            bus: bus.clone(),
            pool: pool.clone(),
            lease: format!("consumer:{}", self.name),
            metrics: metrics::Consumer::new(self.name),
            batch_size: Mutex::new(BatchSize::new(bus.settings().consumer.batch)),
            effects: AtomicU64::new(0),
            disconnected: AtomicBool::new(true),
            name: self.name.to_owned(),
            handler: self.handler,
            handler_version: self.handler_version,
        });
        let owner = Uuid::new_v4();
        while !shutdown.is_cancelled() {
            let pause = match worker.consume_once(&self.subjects, owner, &shutdown).await {
                Ok(Exit::Stopped) => Duration::ZERO,
                Ok(Exit::Standby) => worker.lease_time() / 3,
                Ok(Exit::Interrupted(reason)) => {
                    tracing::info!(consumer = worker.name, reason, "consuming restarts");
                    Duration::from_millis(100)
                }
                Err(error) => {
                    tracing::warn!(consumer = worker.name, error = %error, "consuming was interrupted");
                    Duration::from_secs(1)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        }
        Ok(())
    }
}

impl Worker {
    /// Consumes for as long as the process has the lease, the broker is ready and no operator pauses the consumer.
    async fn consume_once(
        self: &Arc<Self>,
        subjects: &[String],
        owner: Uuid,
        shutdown: &CancellationToken,
    ) -> Result<Exit, Error> {
        tokio::select! {
            () = self.bus.ready() => {}
            () = shutdown.cancelled() => return Ok(Exit::Stopped),
        }
        if store::register(&self.pool, &self.name).await? {
            return Ok(Exit::Standby);
        }
        let Some(lease) = Lease::acquire(&self.pool, &self.lease, owner, self.lease_time()).await? else {
            return Ok(Exit::Standby);
        };
        let stop = shutdown.child_token();
        let held_lease = lease.clone();
        let consume = async {
            let end = pull_loop::run(self, subjects, lease, &stop).await;
            stop.cancel();
            end
        };
        let (end, lease_exit) = tokio::join!(consume, self.keep_lease(&held_lease, &stop));
        if let Err(error) = held_lease.release(&self.pool).await {
            tracing::debug!(consumer = self.name, error = %error, "the lease was not released; it expires by itself");
        }
        Ok(lease_exit.unwrap_or(end?))
    }

    /// Renews the lease until `stop`. Cancels `stop` when the lease is lost or an operator pauses the consumer.
    async fn keep_lease(&self, lease: &Lease, stop: &CancellationToken) -> Option<Exit> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.lease_time() / 3) => {}
                () = stop.cancelled() => return None,
            }
            let renewed = lease.renew(&self.pool, self.lease_time()).await;
            let paused = store::register(&self.pool, &self.name).await;
            let end = match (renewed, paused) {
                (Ok(false), _) => Exit::Interrupted("another process took the lease"),
                (_, Ok(true)) => Exit::Interrupted("an operator paused the consumer"),
                // The database is unavailable: attempts fail by themselves, and the lease may still be valid when
                // it is back.
                _ => continue,
            };
            stop.cancel();
            return Some(end);
        }
    }

    fn settings(&self) -> &ConsumerSettings {
        &self.bus.settings().consumer
    }

    fn lease_time(&self) -> Duration {
        Duration::from_millis(self.settings().lease_ms)
    }

    fn handler_timeout(&self) -> Duration {
        Duration::from_millis(self.settings().handler_timeout_ms)
    }

    fn batch_size(&self) -> MutexGuard<'_, BatchSize> {
        // A panic while the lock is held leaves the value consistent.
        self.batch_size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

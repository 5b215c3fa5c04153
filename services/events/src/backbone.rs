use std::{future::Future, pin::Pin};

use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Bus, Consumer, Error, Maintenance, Relay};

/// A background task. It ends when `shutdown` is cancelled, and not before by itself.
pub type Task = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// What the event tasks need of the service's process.
pub struct Host<S, B> {
    /// Runs a task under a name for as long as the process lives. An error must stop the process.
    pub spawn: S,
    /// Called with whether the broker is usable, once at the start and at every change. Feeds the readiness probe.
    pub on_broker_change: B,
    /// Cancelled when the process is to stop.
    pub shutdown: CancellationToken,
    /// Cancelled when the process has answered all calls it accepted. Until then their events are published.
    pub drained: CancellationToken,
    /// The build that handles events, recorded in dead letters.
    pub build: &'static str,
}

impl Bus {
    /// Starts all event tasks of a service: the connection, the relay, the maintenance and the consumers. `pool`
    /// is the service's own database, as the role that serves.
    pub fn start<S, B>(&self, pool: &PgPool, consumers: impl IntoIterator<Item = Consumer>, host: Host<S, B>)
    where
        S: Fn(&'static str, Task),
        B: Fn(bool) + Send + 'static,
    {
        let stop = || host.shutdown.clone();
        let (bus, shutdown) = (self.clone(), host.drained.clone());
        (host.spawn)("bus", Box::pin(async move { bus.run(shutdown).await }));
        (host.spawn)(
            "relay",
            Box::pin(Relay::new(self, pool).run(host.drained.clone())),
        );
        (host.spawn)(
            "event maintenance",
            Box::pin(Maintenance::new(self, pool).run(stop())),
        );
        (host.spawn)(
            "nats watch",
            Box::pin(watch(self.status(), host.on_broker_change, stop())),
        );
        for consumer in consumers {
            let (bus, pool, shutdown) = (self.clone(), pool.clone(), stop());
            let name = consumer.name();
            let consumer = consumer.handler_version(host.build);
            let running = async move { consumer.run(&bus, &pool, shutdown).await };
            (host.spawn)(name, Box::pin(running));
        }
    }
}

async fn watch<B: Fn(bool)>(
    mut status: watch::Receiver<bool>,
    on_broker_change: B,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    loop {
        let usable = *status.borrow_and_update();
        on_broker_change(usable);
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

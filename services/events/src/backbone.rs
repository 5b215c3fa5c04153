use chassis::{Process, health::Dependency};
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Bus, Consumer, Error, Maintenance, Relay};

/// The name of the broker in the readiness report.
const DEPENDENCY: &str = "nats";

impl Bus {
    /// Starts all event tasks of a service: the connection, the relay, the maintenance and the consumers. `pool`
    /// is the service's own database, as the role that serves. Events of accepted calls are still published while
    /// the process drains.
    pub fn start(&self, process: &Process, pool: &PgPool, consumers: impl IntoIterator<Item = Consumer>) {
        let spawn = |name, task| spawn(process, name, task);
        let stop = || process.shutdown.clone();
        let (bus, drained) = (self.clone(), process.drained.clone());
        spawn("bus", Box::pin(async move { bus.run(drained).await }));
        let relay = Relay::new(self, pool).run(process.drained.clone());
        spawn("relay", Box::pin(relay));
        let maintenance = Maintenance::new(self, pool).run(stop());
        spawn("event maintenance", Box::pin(maintenance));
        let watch = watch(self.status(), process.health.dependency(DEPENDENCY), stop());
        spawn("nats watch", Box::pin(watch));
        for consumer in consumers {
            let (bus, pool, shutdown) = (self.clone(), pool.clone(), stop());
            let name = consumer.name();
            let consumer = consumer.handler_version(chassis::build());
            spawn(
                name,
                Box::pin(async move { consumer.run(&bus, &pool, shutdown).await }),
            );
        }
    }
}

fn spawn(process: &Process, name: &'static str, task: BoxFuture<'static, Result<(), Error>>) {
    process.tasks.spawn(name, async move { Ok(task.await?) });
}

/// Updates the dependency's state with the connection's, until the shutdown.
async fn watch(
    mut status: watch::Receiver<bool>,
    dependency: Dependency,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    loop {
        if *status.borrow_and_update() {
            dependency.up();
        } else {
            dependency.down(&"the broker cannot be used");
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

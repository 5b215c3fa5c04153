//! Fixture for events: one service's database with the backbone's tables, a broker, and a consumer that records
//! effects.

use std::{future::Future, time::Duration};

use events::{Bus, Consumer, Delivery, Event, Handler, HandlerError, Relay, Settings};
use sqlx::PgPool;
pub(crate) use tests::backbone::{CONSUMER, FACILITY, event};
use tests::{
    Database, Nats, Postgres,
    backbone::{self, Recorder, SUBJECT},
    eventually,
};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) nats: Nats,
    pub(crate) database: Database,
    pub(crate) pool: PgPool,
    pub(crate) bus: Bus,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), events::Error>>,
}

impl Fixture {
    /// Starts a database, a broker and a connection; nothing is published or consumed yet.
    pub(crate) async fn start() -> Fixture {
        Self::with(|_| {}).await
    }

    /// Starts with changed settings.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Fixture {
        Self::on(Nats::start().await, change).await
    }

    /// Starts on an existing broker.
    pub(crate) async fn on(nats: Nats, change: impl FnOnce(&mut Settings)) -> Fixture {
        let server = Postgres::shared().await;
        let database = server.database("order").await;
        backbone::prepare_database(&database).await;
        let mut settings = settings(&nats);
        change(&mut settings);
        let bus = Bus::connect(&settings, "order").await.unwrap();
        let pool = database.app().await;
        let stop = CancellationToken::new();
        let mut fixture = Fixture {
            nats,
            database,
            pool,
            bus: bus.clone(),
            stop: stop.clone(),
            tasks: JoinSet::new(),
        };
        fixture.tasks.spawn(async move { bus.run(stop).await });
        fixture
    }

    pub(crate) async fn bus_is_ready(&self) {
        eventually(SOON, || async { self.bus.status().borrow().then_some(()) }).await;
    }

    pub(crate) fn publish(&mut self) {
        let relay = Relay::new(&self.bus, &self.pool);
        self.spawn(|stop| relay.run(stop));
    }

    /// Runs a part of the backbone until the fixture is dropped.
    pub(crate) fn spawn<F>(&mut self, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), events::Error>> + Send + 'static,
    {
        let running = run(self.stop.clone());
        self.tasks.spawn(running);
    }

    /// Consumes until the token is cancelled or the fixture is dropped. `decide` runs between the insert of the
    /// effect and the commit.
    pub(crate) fn consume(
        &mut self,
        decide: impl Fn(&Delivery) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> CancellationToken {
        let stop = self.stop.child_token();
        self.run_consumer(Recorder(decide), stop.clone());
        stop
    }

    /// Consumes with any handler. To the database and the broker, aborting the task looks like the death of the
    /// process: nothing is committed, acknowledged or released.
    pub(crate) fn consume_with(&mut self, handler: impl Handler) -> AbortHandle {
        let stop = self.stop.child_token();
        self.run_consumer(handler, stop)
    }

    fn run_consumer(&mut self, handler: impl Handler, stop: CancellationToken) -> AbortHandle {
        let consumer = Consumer::new(CONSUMER, &[SUBJECT], handler);
        self.run(consumer, stop)
    }

    fn run(&mut self, consumer: Consumer, stop: CancellationToken) -> AbortHandle {
        let consumer = consumer.handler_version("build-1");
        let (bus, pool) = (self.bus.clone(), self.pool.clone());
        self.tasks
            .spawn(async move { consumer.run(&bus, &pool, stop).await })
    }

    /// Consumes under any name until the token is cancelled or the fixture is dropped.
    pub(crate) fn consume_as(&mut self, consumer: Consumer) -> CancellationToken {
        let stop = self.stop.child_token();
        self.run(consumer, stop.clone());
        stop
    }

    /// Starts a fixture that publishes and consumes, and in which every event takes effect.
    pub(crate) async fn flowing() -> Fixture {
        let mut fixture = Fixture::start().await;
        fixture.publish();
        fixture.consume(|_| Ok(()));
        fixture
    }

    /// Appends events of one aggregate with these versions in one transaction.
    pub(crate) async fn append(
        &self,
        aggregate: Uuid,
        versions: impl IntoIterator<Item = i64>,
    ) -> Vec<Event> {
        let events: Vec<_> = versions
            .into_iter()
            .map(|version| event(aggregate, version))
            .collect();
        self.append_all(&events).await;
        events
    }

    pub(crate) async fn append_all(&self, events: &[Event]) {
        backbone::append(&self.pool, events).await.unwrap();
        self.bus.outbox().wake();
    }

    /// Waits until this many effects exist, then returns their versions in the order of their effects.
    pub(crate) async fn effects(&self, aggregate: Uuid, count: usize) -> Vec<i64> {
        eventually(SOON, || async {
            let versions = self.versions(aggregate).await;
            if versions.len() >= count {
                Ok(versions)
            } else {
                Err(format!("only {versions:?}"))
            }
        })
        .await
    }

    pub(crate) async fn versions(&self, aggregate: Uuid) -> Vec<i64> {
        let query = sqlx::query_scalar("select version from effect where aggregate_id = $1 order by id");
        query.bind(aggregate).fetch_all(&self.pool).await.unwrap()
    }

    pub(crate) async fn eventually_count(&self, expected: i64, query: &'static str) {
        eventually(SOON, || async {
            let count = self.database.count(query).await;
            if count == expected {
                Ok(())
            } else {
                Err(format!("{query} gives {count}, not {expected}"))
            }
        })
        .await;
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Settings with short times for this broker.
pub(crate) fn settings(nats: &Nats) -> Settings {
    backbone::settings(nats.url(), nats.monitoring_url())
}

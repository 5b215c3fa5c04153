//! Fixture for chaos runs: a database, a broker, a relay and a consumer that are killed, and the checks
//! afterwards.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use sqlx::{AssertSqlSafe, Executor as _, PgPool};
use tests::{
    Database, Durability, Nats, Node, Postgres, Role,
    backbone::{self, event, published},
    eventually,
};
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;

/// Size of a chaos run.
pub(crate) struct ChaosPlan {
    pub(crate) events: usize,
    pub(crate) aggregates: usize,
    pub(crate) kills: usize,
    /// Time limit of the whole run, including the last effect.
    pub(crate) within: Duration,
}

pub(crate) struct ChaosFixture {
    postgres: Arc<Postgres>,
    database: Database,
    nats: Arc<Nats>,
    relay: Arc<Node>,
    consumer: Arc<Node>,
    pool: PgPool,
}

/// Number of kills of each process.
#[derive(Default)]
pub(crate) struct KillCounts(HashMap<Victim, usize>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Victim {
    Relay,
    Consumer,
    Nats,
    Postgres,
}

const VICTIMS: [Victim; 4] = [Victim::Relay, Victim::Consumer, Victim::Nats, Victim::Postgres];

/// Violations, each with a query that counts them; all must be 0.
const VIOLATIONS: [(&str, &str); 7] = [
    (
        "business rows whose version is not that of their last event",
        "select count(*) from basket b
         where version <> (select max(version) from events.event_log where aggregate_id = b.id)
            or version <> (select count(*) from events.event_log where aggregate_id = b.id)",
    ),
    (
        "events that the inbox does not know, or knows without an event",
        "select count(*) from events.event_log l full join events.inbox i on i.event_id = l.id
         where l.id is null or i.event_id is null",
    ),
    (
        "events without an effect, or effects without an event",
        "select count(*) from events.event_log l full join effect e on e.event_id = l.id
         where l.id is null or e.event_id is null or e.version <> l.version or e.aggregate_id <> l.aggregate_id",
    ),
    (
        "effects out of order",
        "select count(*) from (select version, lag(version, 1, 0::bigint) over
             (partition by aggregate_id order by id) as before from effect) e
         where version <> before + 1",
    ),
    ("events that wait", "select count(*) from events.outbox"),
    ("dead letters", "select count(*) from events.dead_letter"),
    ("parked events", "select count(*) from events.parked"),
];

impl ChaosFixture {
    pub(crate) async fn start(plan: &ChaosPlan) -> ChaosFixture {
        let postgres = Postgres::start(Durability::Durable).await;
        let database = postgres.database("order").await;
        backbone::prepare_database(&database).await;
        let basket = "create table basket (id uuid primary key, version bigint not null);
                      grant select, insert, update on basket to order_app";
        database.owner().await.execute(basket).await.unwrap();
        let nats = Arc::new(Nats::start().await);
        let mut settings = backbone::settings(nats.url(), nats.monitoring_url());
        settings.events_max_bytes = 1 << 30;
        settings.relay.ack_timeout_ms = 2_000;
        // A process that dies here is not the fault of an event.
        settings.consumer.crash_tries = 10;
        settings.consumer.max_deliver = 100;
        settings.consumer.max_in_flight = plan.events.min(256);
        let relay = Node::start(Role::Relay, &database, &settings).await;
        let consumer = Node::start(Role::Consumer, &database, &settings).await;
        let pool = database.app().await;
        ChaosFixture {
            postgres,
            database,
            nats,
            relay: Arc::new(relay),
            consumer: Arc::new(consumer),
            pool,
        }
    }

    /// Produces the events, a share of them after every kill, and returns when all are committed.
    pub(crate) async fn run_with_kills(&self, plan: &ChaosPlan, mut random: StdRng) -> KillCounts {
        let allowed = Arc::new(Semaphore::new(0));
        let per_aggregate = (plan.events / plan.aggregates) as i64;
        let mut producers = JoinSet::new();
        for _ in 0..plan.aggregates {
            producers.spawn(produce(
                self.pool.clone(),
                Uuid::new_v4(),
                per_aggregate,
                allowed.clone(),
            ));
        }
        let mut kills = KillCounts::default();
        let mut coming_back = JoinSet::new();
        let mut up = VICTIMS.to_vec();
        for kill in 0..plan.kills {
            let share = plan.events / plan.kills;
            allowed.add_permits(if kill == 0 {
                share + plan.events % plan.kills
            } else {
                share
            });
            tokio::time::sleep(Duration::from_millis(random.random_range(100..500))).await;
            while let Some(back) = coming_back.try_join_next() {
                up.push(back.unwrap());
            }
            if up.is_empty() {
                up.push(coming_back.join_next().await.unwrap().unwrap());
            }
            let victim = *up.choose(&mut random).unwrap();
            up.retain(|other| *other != victim);
            *kills.0.entry(victim).or_default() += 1;
            let down = Duration::from_millis(random.random_range(0..300));
            coming_back.spawn(self.kill(victim, down));
        }
        coming_back.join_all().await;
        producers.join_all().await;
        kills
    }

    /// Kills a process at once and restarts it after `down`.
    fn kill(&self, victim: Victim, down: Duration) -> impl Future<Output = Victim> + Send + use<> {
        let (postgres, nats) = (self.postgres.clone(), self.nats.clone());
        let (relay, consumer) = (self.relay.clone(), self.consumer.clone());
        match victim {
            Victim::Relay => relay.kill9(),
            Victim::Consumer => consumer.kill9(),
            Victim::Nats => nats.kill9(),
            Victim::Postgres => postgres.kill9(),
        }
        async move {
            tokio::time::sleep(down).await;
            match victim {
                Victim::Relay => relay.restart().await,
                Victim::Consumer => consumer.restart().await,
                Victim::Nats => nats.restart().await,
                Victim::Postgres => postgres.restart().await,
            }
            victim
        }
    }

    /// Waits until every event has taken effect.
    pub(crate) async fn wait_until_consumed(&self, plan: &ChaosPlan, started: Instant) {
        let left = plan.within.saturating_sub(started.elapsed());
        eventually(left, || async {
            let effects = self.database.count("select count(*) from effect").await;
            let waiting = self.database.count("select count(*) from events.outbox").await;
            if (effects, waiting) == (plan.events as i64, 0) {
                return Ok(());
            }
            let (relay, consumer) = (self.relay.log(), self.consumer.log());
            Err(format!(
                "{effects} effects, {waiting} events wait\n{relay}{consumer}"
            ))
        })
        .await;
    }

    /// Compares the business table, the event log, the stream, the inbox and the effects.
    pub(crate) async fn check(&self, plan: &ChaosPlan) {
        for (what, query) in VIOLATIONS {
            assert_eq!(self.database.count(query).await, 0, "{what}");
        }
        let logged: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(AssertSqlSafe(
            "select id, aggregate_id, version from events.event_log",
        ))
        .fetch_all(&self.database.superuser().await)
        .await
        .unwrap();
        assert_eq!(logged.len(), plan.events);
        let mut missing: HashMap<Uuid, (Uuid, i64)> = logged
            .into_iter()
            .map(|(id, aggregate, version)| (id, (aggregate, version)))
            .collect();
        let mut reached: HashMap<Uuid, i64> = HashMap::new();
        for event in published(&self.nats).await {
            let logged = missing.remove(&event.id);
            assert_eq!(
                logged,
                Some((event.aggregate, event.version)),
                "twice in the stream, or not in the log"
            );
            let before = reached.insert(event.aggregate, event.version).unwrap_or_default();
            assert_eq!(event.version, before + 1, "out of order in the stream");
        }
        assert_eq!(missing.len(), 0, "events that the stream lacks");
    }
}

impl fmt::Display for KillCounts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.0.values().sum();
        write!(formatter, "{total}")?;
        for victim in VICTIMS {
            let count = self.0.get(&victim).copied().unwrap_or_default();
            write!(formatter, ", {victim:?} {count}")?;
        }
        Ok(())
    }
}

/// Increments the version of one aggregate and appends an event with each step. After an interrupted commit, the
/// table tells whether it succeeded.
async fn produce(pool: PgPool, aggregate: Uuid, versions: i64, allowed: Arc<Semaphore>) {
    let mut version = 1;
    while version <= versions {
        allowed.acquire().await.unwrap().forget();
        while let Err(error) = step(&pool, aggregate, version).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
            tracing::debug!(%error, "tried again");
        }
        version += 1;
    }
}

async fn step(pool: &PgPool, aggregate: Uuid, version: i64) -> anyhow::Result<()> {
    let mut tx = backbone::begin(pool).await?;
    let counted = sqlx::query(
        "insert into basket (id, version) values ($1, $2)
         on conflict (id) do update set version = excluded.version where basket.version = excluded.version - 1",
    );
    let counted = counted.bind(aggregate).bind(version).execute(&mut *tx).await?;
    if counted.rows_affected() == 0 {
        // The commit that seemed to fail had succeeded.
        return Ok(());
    }
    events::append(&mut tx, &[event(aggregate, version)]).await?;
    tx.commit().await?;
    Ok(())
}

//! One service's database, a broker and a connection, all durable.

use std::{sync::Arc, time::Duration};

use events::{Bus, Consumer, Delivery, Relay};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tests::{
    Database, Durability, Nats, Postgres,
    backbone::{self, CONSUMER, Recorder, SUBJECT},
    eventually,
};
use tokio_util::sync::CancellationToken;

use crate::Stop;

pub(crate) struct Environment {
    pub(crate) server: Arc<Postgres>,
    pub(crate) database: Database,
    pub(crate) nats: Nats,
    pub(crate) bus: Bus,
    pub(crate) pool: PgPool,
    _stop: Stop,
}

impl Environment {
    /// Ready to publish.
    pub(crate) async fn start() -> Environment {
        let server = Postgres::start(Durability::Durable).await;
        let database = server.database("order").await;
        backbone::prepare_database(&database).await;
        let nats = Nats::start().await;
        let settings = events::Settings {
            servers: vec![nats.url().into()],
            monitor_url: Some(nats.monitoring_url().into()),
            ..events::Settings::default()
        };
        let bus = Bus::connect(&settings, "order").await.unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(64)
            .connect(&database.app_url())
            .await
            .unwrap();
        let stop = CancellationToken::new();
        let (running, until) = (bus.clone(), stop.clone());
        tokio::spawn(async move { running.run(until).await.unwrap() });
        eventually(Duration::from_secs(20), || async {
            bus.status().borrow().then_some(())
        })
        .await;
        Environment {
            server,
            database,
            nats,
            bus,
            pool,
            _stop: Stop(stop),
        }
    }

    pub(crate) fn relay(&self) -> Stop {
        let stop = CancellationToken::new();
        tokio::spawn(Relay::new(&self.bus, &self.pool).run(stop.clone()));
        Stop(stop)
    }

    pub(crate) fn consume(&self) -> Stop {
        let stop = CancellationToken::new();
        let consumer = Consumer::new(CONSUMER, &[SUBJECT], Recorder(|_: &Delivery| Ok(())));
        let (bus, pool, until) = (self.bus.clone(), self.pool.clone(), stop.clone());
        tokio::spawn(async move { consumer.run(&bus, &pool, until).await });
        Stop(stop)
    }
}

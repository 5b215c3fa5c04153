//! Properties of the harness that every other scenario relies on.

use std::time::Duration;

use async_nats::jetstream;
use sqlx::Executor as _;
use tests::{Durability, Nats, Postgres, Service, Stack, eventually};

#[tokio::test]
async fn each_database_is_fresh_and_the_service_role_owns_nothing_in_it() {
    let server = Postgres::shared().await;
    let (first, second) = (server.database("order").await, server.database("order").await);
    assert_ne!(first.name(), second.name());

    let owner = first.owner().await;
    owner
        .execute("create schema s; create table s.t (n bigint); insert into s.t values (7)")
        .await
        .unwrap();
    assert_eq!(first.count("select n from s.t").await, 7);

    let refused = first.app().await.execute("create schema mine").await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "42501");
    assert_eq!(
        second
            .count("select count(*) from pg_namespace where nspname = 's'")
            .await,
        0
    );
}

#[tokio::test]
async fn a_durable_postgres_keeps_what_was_committed_before_it_was_killed() {
    let server = Postgres::start(Durability::Durable).await;
    let database = server.database("payment").await;
    let pool = database.owner().await;
    pool.execute("create table kept (n bigint); insert into kept values (1), (2)")
        .await
        .unwrap();
    server.kill9();
    assert!(pool.execute("select 1").await.is_err());
    server.restart().await;
    assert_eq!(database.count("select count(*) from kept").await, 2);
}

#[tokio::test]
async fn nats_keeps_what_it_acknowledged_over_a_kill_and_its_address_over_a_restart() {
    let nats = Nats::start().await;
    let jetstream = jetstream::new(nats.client().await);
    let stream = jetstream::stream::Config {
        name: "KEPT".into(),
        subjects: vec!["kept.>".into()],
        ..Default::default()
    };
    jetstream.create_stream(stream).await.unwrap();
    jetstream
        .publish("kept.1", "body".into())
        .await
        .unwrap()
        .await
        .unwrap();

    let url = nats.url().to_owned();
    nats.kill9();
    nats.restart().await;
    assert_eq!(nats.url(), url);
    let messages = eventually(Duration::from_secs(10), || async {
        let stream = jetstream.get_stream("KEPT").await?;
        Ok::<_, jetstream::context::GetStreamError>(stream.cached_info().state.messages)
    })
    .await;
    assert_eq!(messages, 1);
}

#[tokio::test]
async fn a_killed_service_comes_back_on_the_same_addresses() {
    let stack = Stack::start().await;
    for service in Service::ALL {
        let address = stack.address(service);
        stack.kill9(service);
        assert!(stack.health(service, "liveness").await.is_err());
        stack.restart(service).await;
        assert_eq!(stack.address(service), address);
    }
}

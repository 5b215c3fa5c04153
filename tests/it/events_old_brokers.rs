//! Older brokers: the test's broker behind a proxy that makes it look older, and a stream without atomic batches.

use std::{io, time::Duration};

use async_nats::jetstream::{self, consumer::PullConsumer};
use events::{Bus, Delivery, Handler, HandlerError};
use futures_util::StreamExt as _;
use sqlx::PgConnection;
use tests::{
    Nats,
    backbone::{SUBJECT, published},
    eventually,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::{
    events_filters::{GAINED, append, assert_no_duplicates, consume, effects, pass_events},
    events_fixture::{CONSUMER, Fixture, SOON, event, settings},
};

/// An unanswered request times out after 5 s, and unacknowledged messages are redelivered after their own limit.
const LATER: Duration = Duration::from_secs(60);

/// Request that resets a consumer. Servers before 2.14 do not know it and do not answer.
const RESET: &str = "$JS.API.CONSUMER.RESET.";
const UNKNOWN: &str = "$JS.API.CONSUMER.UNKNOWN.";

/// Starts a proxy through which the broker reports this version and does not support what 2.14 added.
async fn older(nats: &Nats, version: &str) -> String {
    let named = |version: &str| format!("\"version\":\"{version}\"");
    let greeting = (named(&nats.client().await.server_info().version), named(version));
    let server = nats.address().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (from_server, to_server) = TcpStream::connect(&server).await.unwrap().into_split();
            let (from_client, to_client) = client.into_split();
            let (is, said) = greeting.clone();
            tokio::spawn(async move { carry(from_server, to_client, "INFO ", (&is, &said)).await });
            tokio::spawn(carry(from_client, to_server, "PUB ", (RESET, UNKNOWN)));
        }
    });
    url
}

/// Forwards one direction, with one word replaced in the protocol lines of one kind. A message body ends with a
/// line break, so that nothing is held back.
async fn carry(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    kind: &str,
    (word, replacement): (&str, &str),
) -> io::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).await? > 0 {
        match std::str::from_utf8(&line) {
            Ok(text) if text.starts_with(kind) => {
                to.write_all(text.replace(word, replacement).as_bytes()).await?;
            }
            _ => to.write_all(&line).await?,
        }
        line.clear();
    }
    to.shutdown().await
}

/// A fixture whose broker looks like 2.12.
async fn on_an_older_broker() -> Fixture {
    let nats = Nats::start().await;
    let older = older(&nats, "2.12.8").await;
    Fixture::on(nats, |settings| {
        settings.servers = vec![older.as_str().into()];
        settings.consumer.ack_wait_ms = 1_000;
    })
    .await
}

async fn consumer(fixture: &Fixture) -> Option<jetstream::consumer::Info> {
    let jetstream = jetstream::new(fixture.nats.client().await);
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream(CONSUMER, "EVENTS")
        .await
        .ok()?;
    Some(consumer.cached_info().clone())
}

/// It would store the messages of a batch one by one, with an answer that looks like that to a batch.
#[tokio::test]
async fn a_broker_before_2_12_is_refused_with_the_required_version_and_not_changed() {
    let nats = Nats::start().await;
    let mut settings = settings(&nats);
    settings.servers = vec![older(&nats, "2.11.11").await.as_str().into()];
    let bus = Bus::connect(&settings, "order").await.unwrap();
    let refused = tokio::time::timeout(SOON, bus.run(Default::default()))
        .await
        .unwrap();
    assert_eq!(
        refused.unwrap_err().to_string(),
        "NATS 2.12 or newer is needed; the broker is 2.11.11: upgrade it"
    );
    let jetstream = jetstream::new(nats.client().await);
    assert!(jetstream.get_stream("EVENTS").await.is_err());
}

#[tokio::test]
async fn on_a_broker_before_2_14_a_consumer_that_gains_a_subject_is_recreated_without_a_second_effect() {
    let mut fixture = on_an_older_broker().await;
    let aggregate = pass_events(&mut fixture).await;
    let created = consumer(&fixture).await.unwrap().created;
    consume(&mut fixture, &[SUBJECT, GAINED]);
    append(&fixture, aggregate, 11..=14).await;
    assert_eq!(
        effects(&fixture, aggregate, 14).await,
        (1..=14).collect::<Vec<_>>()
    );
    assert_no_duplicates(&fixture).await;
    assert_ne!(consumer(&fixture).await.unwrap().created, created);
}

/// Never finishes its events.
struct Hangs;

impl Handler for Hangs {
    async fn handle(&self, _: &mut PgConnection, _: &Delivery) -> Result<(), HandlerError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn on_a_broker_before_2_14_unacknowledged_events_are_redelivered_in_order() {
    let mut fixture = on_an_older_broker().await;
    let client = fixture.nats.client().await;
    let mut unanswered = client.subscribe(format!("{UNKNOWN}>")).await.unwrap();
    client.flush().await.unwrap();
    fixture.publish();
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, 1..=5).await;
    let died = fixture.consume_with(Hangs);
    eventually(SOON, || async {
        consumer(&fixture)
            .await
            .is_some_and(|info| info.num_ack_pending > 0)
    })
    .await;
    died.abort();
    fixture.consume(|_| Ok(()));
    let versions = eventually(LATER, || async {
        let versions = fixture.versions(aggregate).await;
        (versions.len() >= 5).then_some(versions)
    })
    .await;
    assert_eq!(versions, [1, 2, 3, 4, 5]);
    assert!(unanswered.next().await.is_some());
}

#[tokio::test]
async fn a_stream_without_atomic_batches_gets_each_event_alone_and_in_order() {
    let mut fixture = Fixture::start().await;
    fixture.bus_is_ready().await;
    let jetstream = jetstream::new(fixture.nats.client().await);
    let mut stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.allow_atomic_publish = false;
    jetstream.update_stream(&config).await.unwrap();

    let aggregates: Vec<_> = (0..8).map(|_| Uuid::new_v4()).collect();
    let events: Vec<_> = (1..=5)
        .flat_map(|version| aggregates.iter().map(move |id| event(*id, version)))
        .collect();
    fixture.append_all(&events).await;
    fixture.publish();
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    let published = published(&fixture.nats).await;
    assert_eq!(published.len(), events.len());
    for aggregate in aggregates {
        let of_it = published.iter().filter(|event| event.aggregate == aggregate);
        assert_eq!(
            of_it.map(|event| event.version).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
    }
}

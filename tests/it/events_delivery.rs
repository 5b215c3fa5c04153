//! Delivery of events from a committed transaction to one effect, in order, across failures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use events::{Bus, Error, HandlerError};
use futures_util::StreamExt as _;
use tests::{backbone::append, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use uuid::Uuid;

use crate::events_fixture::{FACILITY, Fixture, SOON, event, settings};

#[tokio::test]
async fn a_committed_event_is_published_as_a_cloud_event_and_leaves_the_outbox() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let aggregate = Uuid::new_v4();
    let [sent] = &fixture.append(aggregate, [7]).await[..] else {
        panic!("one event")
    };
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    assert_eq!(
        fixture
            .database
            .count("select count(*) from events.event_log")
            .await,
        1
    );

    let stream = jetstream::new(fixture.nats.client().await)
        .get_stream("EVENTS")
        .await
        .unwrap();
    let message = stream.direct_get(1).await.unwrap();
    assert_eq!(message.subject.as_str(), "evt.order.order.confirmed");
    assert_eq!(message.payload, sent.body);
    let id = sent.id.to_string();
    for (name, value) in [
        ("Nats-Msg-Id", id.as_str()),
        ("ce-id", id.as_str()),
        ("ce-specversion", "1.0"),
        ("ce-source", "/weft/order"),
        ("ce-type", "order.v1.OrderConfirmed"),
        ("ce-datacontenttype", "application/protobuf"),
        ("ce-partitionkey", aggregate.to_string().as_str()),
        ("ce-sequence", "7"),
        ("ce-facility", FACILITY),
    ] {
        let header = message
            .headers
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(header.as_str(), value, "{name}");
    }
}

#[tokio::test]
async fn events_of_an_aggregate_take_effect_in_order_and_once() {
    let fixture = Fixture::flowing().await;
    let aggregates: Vec<_> = (0..20).map(|_| Uuid::new_v4()).collect();
    for version in 1..=25 {
        let round: Vec<_> = aggregates
            .iter()
            .map(|aggregate| event(*aggregate, version))
            .collect();
        fixture.append_all(&round).await;
    }
    for aggregate in aggregates {
        assert_eq!(fixture.effects(aggregate, 25).await, (1..=25).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_event_delivered_twice_has_one_effect() {
    let fixture = Fixture::flowing().await;
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    fixture.effects(aggregate, 1).await;
    // The same message with another message id, as a relay sends it that restarts after the duplicate window.
    let jetstream = jetstream::new(fixture.nats.client().await);
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut copy = stream.direct_get(1).await.unwrap();
    copy.headers.insert("Nats-Msg-Id", "again");
    let ack = jetstream
        .publish_with_headers(copy.subject, copy.headers, copy.payload)
        .await
        .unwrap();
    assert!(!ack.await.unwrap().duplicate);
    fixture.append(aggregate, [2]).await;
    assert_eq!(fixture.effects(aggregate, 2).await, [1, 2]);
}

#[tokio::test]
async fn a_facility_sees_its_own_part_of_the_log_and_writes_no_others() {
    let mut fixture = Fixture::start().await;
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    let pool = fixture.pool.clone();
    let seen_by = async |facility: &str| {
        let mut tx = pool.begin().await.unwrap();
        let set = sqlx::query("select set_config('weft.facility', $1, true)").bind(facility);
        set.execute(&mut *tx).await.unwrap();
        let count = sqlx::query_scalar::<_, i64>("select count(*) from events.event_log");
        count.fetch_one(&mut *tx).await.unwrap()
    };
    for published in [false, true] {
        assert_eq!(seen_by(FACILITY).await, 1, "published: {published}");
        assert_eq!(seen_by("al-zahra").await, 0, "published: {published}");
        if !published {
            fixture.publish();
            fixture
                .eventually_count(0, "select count(*) from events.outbox")
                .await;
        }
    }
    for part in ["outbox", "notice", "event_log_published"] {
        let query = sqlx::AssertSqlSafe(format!("select count(*) from events.{part}"));
        let refused = sqlx::query(query).execute(&fixture.pool).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{refused}");
    }
    let mut foreign = event(aggregate, 2);
    foreign.meta.facility = "al-zahra".into();
    let refused = append(&fixture.pool, &[foreign]).await.unwrap_err();
    assert!(refused.to_string().contains("row-level security"), "{refused}");
}

#[tokio::test]
async fn an_event_that_was_published_and_still_waits_is_not_stored_twice() {
    let mut fixture = Fixture::start().await;
    let aggregate = Uuid::new_v4();
    let events = fixture.append(aggregate, 1..=3).await;
    eventually(SOON, || async { fixture.bus.status().borrow().then_some(()) }).await;
    let jetstream = jetstream::new(fixture.nats.client().await);
    let published = jetstream::message::PublishMessage::build()
        .message_id(events[1].id.to_string())
        .payload(events[1].body.clone().into());
    jetstream
        .send_publish("evt.order.order.confirmed", published)
        .await
        .unwrap()
        .await
        .unwrap();
    fixture.publish();
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 3);
}

#[tokio::test]
async fn while_the_broker_is_down_the_outbox_backs_up_and_then_drains_by_itself() {
    let fixture = Fixture::flowing().await;
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    fixture.effects(aggregate, 1).await;
    let status = fixture.bus.status();
    fixture.nats.kill9();
    eventually(SOON, || async { !*status.borrow() }).await;
    fixture.append(aggregate, 2..=50).await;
    assert_eq!(
        fixture.database.count("select count(*) from events.outbox").await,
        49
    );
    fixture.nats.restart().await;
    assert_eq!(fixture.effects(aggregate, 50).await, (1..=50).collect::<Vec<_>>());
    assert!(*status.borrow());
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_and_later_events_of_the_aggregate_wait() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    fixture.consume(move |delivery| {
        if delivery.version == 1 && counted.fetch_add(1, Ordering::SeqCst) < 3 {
            return Err(HandlerError::transient("NOT_YET", "try again"));
        }
        Ok(())
    });
    let (slow, quick) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.append(slow, 1..=5).await;
    fixture.append(quick, 2..=5).await;
    assert_eq!(fixture.effects(quick, 4).await, [2, 3, 4, 5]);
    assert_eq!(fixture.effects(slow, 5).await, [1, 2, 3, 4, 5]);
    assert_eq!(attempts.load(Ordering::SeqCst), 4);
    assert_eq!(
        fixture
            .database
            .count("select count(*) from events.failure")
            .await,
        0
    );
}

#[tokio::test]
async fn a_consumer_that_lost_its_acknowledgements_starts_over_without_a_second_effect() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let first = fixture.consume(|_| Ok(()));
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, 1..=10).await;
    fixture.effects(aggregate, 10).await;
    first.cancel();
    // Resets the consumer to the beginning, as if the process had died between every commit and its
    // acknowledgement.
    let jetstream = jetstream::new(fixture.nats.client().await);
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    eventually(SOON, || async {
        stream
            .reset_consumer(crate::events_fixture::CONSUMER, Some(1))
            .await
    })
    .await;
    fixture.consume(|_| Ok(()));
    fixture.append(aggregate, [11]).await;
    assert_eq!(fixture.effects(aggregate, 11).await, (1..=11).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_processes_share_a_consumer_without_breaking_the_order() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    fixture.publish();
    let first = fixture.consume(|_| Ok(()));
    fixture.consume(|_| Ok(()));
    let aggregates: Vec<_> = (0..8).map(|_| Uuid::new_v4()).collect();
    for version in 1..=40 {
        let round: Vec<_> = aggregates
            .iter()
            .map(|aggregate| event(*aggregate, version))
            .collect();
        fixture.append_all(&round).await;
        if version == 20 {
            first.cancel();
        }
    }
    for aggregate in aggregates {
        assert_eq!(fixture.effects(aggregate, 40).await, (1..=40).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_broker_that_acknowledges_before_it_syncs_is_refused_unless_allowed_by_name() {
    let nats = tests::Nats::start().await;
    let mut settings = settings(&nats);
    settings.monitor_url = Some(relaxed_monitoring().await.into());
    let bus = Bus::connect(&settings, "order").await.unwrap();
    let refused = tokio::time::timeout(SOON, bus.run(Default::default()))
        .await
        .unwrap();
    assert!(matches!(refused, Err(Error::RelaxedSync { .. })), "{refused:?}");

    settings.allow_relaxed_sync = true;
    let bus = Bus::connect(&settings, "order").await.unwrap();
    let running = bus.clone();
    let task = tokio::spawn(async move { running.run(Default::default()).await });
    eventually(Duration::from_secs(5), || async {
        bus.status().borrow().then_some(())
    })
    .await;
    task.abort();
}

#[tokio::test]
async fn a_service_starts_while_the_broker_is_down_and_reports_it() {
    let fixture = Fixture::flowing().await;
    fixture.nats.kill9();
    let late = Bus::connect(&settings(&fixture.nats), "payment").await.unwrap();
    assert!(!*late.status().borrow());
    let running = late.clone();
    let task = tokio::spawn(async move { running.run(Default::default()).await });
    fixture.nats.restart().await;
    eventually(SOON, || async { late.status().borrow().then_some(()) }).await;
    task.abort();
}

#[tokio::test]
async fn an_empty_broker_gets_its_streams_again() {
    let fixture = Fixture::flowing().await;
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, 1..=2).await;
    fixture.effects(aggregate, 2).await;
    let client = fixture.nats.client().await;
    let jetstream = jetstream::new(client);
    let names: Vec<_> = jetstream.stream_names().collect().await;
    for name in names {
        jetstream.delete_stream(name.unwrap()).await.unwrap();
    }
    fixture.nats.kill9();
    fixture.nats.restart().await;
    fixture.append(aggregate, 3..=4).await;
    assert_eq!(fixture.effects(aggregate, 4).await, [1, 2, 3, 4]);
}

/// Imitates the monitoring page of a server whose `sync_interval` is not `always`.
async fn relaxed_monitoring() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let body = r#"{"config": {"sync_interval": 120000000000, "store_dir": "/data"}}"#;
            let answer = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}");
            let _ = connection.read(&mut [0; 1024]).await;
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}

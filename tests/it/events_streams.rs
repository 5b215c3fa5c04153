//! Streams as operators see and change them, events that consumers missed, and the daily partitions of the log.

use async_nats::jetstream;
use events::{Bus, EventOperations, Maintenance, Operator};
use proto::ops::v1::{self as ops, event_service_server::EventService as _};
use tests::eventually;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::by,
    events_fixture::{FACILITY, Fixture, SOON, settings},
};

fn operations(fixture: &Fixture) -> EventOperations {
    EventOperations::new(&fixture.bus, &fixture.pool, |extensions| {
        Ok(extensions
            .get::<Operator>()
            .expect("the test says who calls")
            .clone())
    })
}

#[tokio::test]
async fn an_operators_change_of_a_stream_survives_restarts_until_the_definition_is_applied() {
    let fixture = Fixture::start().await;
    fixture.bus_is_ready().await;
    let context = jetstream::new(fixture.nats.client().await);
    let mut stream = context.get_stream("EVENTS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    let wanted = config.max_bytes;
    config.max_bytes = wanted * 2;
    context.update_stream(&config).await.unwrap();

    let stop = CancellationToken::new();
    let another = Bus::connect(&settings(&fixture.nats), "payment").await.unwrap();
    let (running, stopped) = (another.clone(), stop.clone());
    let running = tokio::spawn(async move { running.run(stopped).await });
    eventually(SOON, || async { another.status().borrow().then_some(()) }).await;
    assert_eq!(stream.info().await.unwrap().config.max_bytes, wanted * 2);

    let operator = operations(&fixture);
    let request = ops::ApplyStreamsRequest {
        request_id: Uuid::new_v4().to_string(),
        validate_only: false,
    };
    let apply = || operator.apply_streams(by(FACILITY, request.clone()));
    let answer = apply().await.unwrap();
    let [difference] = &answer.get_ref().differences[..] else {
        panic!("one setting differs: {answer:?}")
    };
    assert_eq!(difference.setting, "max_bytes");
    assert_eq!(stream.info().await.unwrap().config.max_bytes, wanted);
    let repeated = apply().await.unwrap();
    assert_eq!(repeated.metadata().get("idempotency-replayed").unwrap(), "true");
    assert_eq!(repeated.get_ref(), answer.get_ref());
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_consumer_that_missed_events_reports_them_and_receives_them_from_the_log() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let maintenance = Maintenance::new(&fixture.bus, &fixture.pool);
    fixture.spawn(|stop| maintenance.run(stop));
    let consumer = fixture.consume(|_| Ok(()));
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    fixture.effects(aggregate, 1).await;
    consumer.cancel();
    fixture.append(aggregate, 2..=4).await;
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    // Its position is before the second event.
    fixture
        .eventually_count(1, "select count(*) from events.consumer where position = 1")
        .await;
    let context = jetstream::new(fixture.nats.client().await);
    context.get_stream("EVENTS").await.unwrap().purge().await.unwrap();
    fixture
        .eventually_count(
            1,
            "select count(*) from events.consumer where gap_from is not null",
        )
        .await;
    let operator = operations(&fixture);
    let listed = async || {
        let request = by(FACILITY, ops::ListConsumersRequest::default());
        let answer = operator.list_consumers(request).await.unwrap();
        answer.into_inner().consumers.remove(0)
    };
    assert!(listed().await.gap_start_time.is_some());

    let request = ops::RepublishEventsRequest {
        window: None,
        request_id: Uuid::new_v4().to_string(),
    };
    let republish = || operator.republish_events(by(FACILITY, request.clone()));
    assert_eq!(republish().await.unwrap().get_ref().republished_count, 4);
    let repeated = republish().await.unwrap();
    assert_eq!(repeated.metadata().get("idempotency-replayed").unwrap(), "true");
    fixture.consume(|_| Ok(()));
    assert_eq!(fixture.effects(aggregate, 4).await, [1, 2, 3, 4]);
    let request = ops::ResumeConsumerRequest {
        consumer: listed().await.name,
        request_id: Uuid::new_v4().to_string(),
    };
    operator.resume_consumer(by(FACILITY, request)).await.unwrap();
    assert!(listed().await.gap_start_time.is_none());
}

#[tokio::test]
async fn a_day_that_began_in_the_default_partition_gets_a_partition_of_its_own() {
    let mut fixture = Fixture::start().await;
    let events = fixture.append(Uuid::new_v4(), [1]).await;
    let superuser = fixture.database.superuser().await;
    sqlx::query("update events.outbox set occurred_at = '2020-01-01 12:00:00+00'")
        .execute(&superuser)
        .await
        .unwrap();
    fixture.publish();
    fixture
        .eventually_count(1, "select count(*) from events.event_log_default")
        .await;
    fixture
        .database
        .count("select events.create_partitions(7)::bigint")
        .await;
    let moved = sqlx::query_scalar::<_, Uuid>("select id from events.event_log_20200101");
    assert_eq!(moved.fetch_all(&superuser).await.unwrap(), [events[0].id]);
    assert_eq!(
        fixture
            .database
            .count("select count(*) from events.event_log_default")
            .await,
        0
    );
}

//! The backbone as administrators see it, and how they pause a consumer.

use events::EventOperations;
use proto::ops::v1::{self as ops, event_service_server::EventService as _};
use tests::eventually;
use tonic::Code;
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::by,
    events_fixture::{CONSUMER, FACILITY, Fixture, SOON},
};

fn operations(fixture: &Fixture) -> EventOperations {
    EventOperations::new(&fixture.bus, &fixture.pool, |extensions| {
        Ok(extensions.get().cloned().unwrap())
    })
}

fn request_id() -> String {
    Uuid::new_v4().to_string()
}

async fn status(operations: &EventOperations) -> ops::ConsumerStatus {
    let answer = operations
        .list_consumers(by(FACILITY, ops::ListConsumersRequest {}))
        .await
        .unwrap();
    let [consumer] = &answer.get_ref().consumers[..] else {
        panic!("one consumer")
    };
    consumer.clone()
}

#[tokio::test]
async fn a_paused_consumer_waits_and_shows_its_lag_and_goes_on_when_resumed() {
    let fixture = Fixture::flowing().await;
    let operations = operations(&fixture);
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    fixture.effects(aggregate, 1).await;

    let pause = ops::PauseConsumerRequest {
        consumer: CONSUMER.into(),
        request_id: request_id(),
        reason: "the payer is down".into(),
    };
    operations.pause_consumer(by(FACILITY, pause)).await.unwrap();
    // The consuming process releases its lease.
    fixture
        .eventually_count(
            1,
            "select count(*) from events.lease where name like 'consumer:%' and until < now()",
        )
        .await;
    fixture.append(aggregate, 2..=4).await;
    let seen = eventually(SOON, || async {
        let seen = status(&operations).await;
        if seen.pending_count == 3 {
            Ok(seen)
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
    assert!(seen.paused && seen.lag.is_some());
    assert_eq!(
        (seen.changed_by.as_str(), seen.reason.as_str()),
        ("olivia", "the payer is down")
    );
    assert_eq!(fixture.versions(aggregate).await, [1]);

    let resume = ops::ResumeConsumerRequest {
        consumer: CONSUMER.into(),
        request_id: request_id(),
    };
    operations.resume_consumer(by(FACILITY, resume)).await.unwrap();
    assert_eq!(fixture.effects(aggregate, 4).await, [1, 2, 3, 4]);
    let audited =
        "select count(*) from events.operator_action where action in ('PauseConsumer', 'ResumeConsumer')";
    assert_eq!(fixture.database.count(audited).await, 2);
}

#[tokio::test]
async fn a_consumer_that_is_not_there_cannot_be_paused() {
    let fixture = Fixture::start().await;
    let pause = ops::PauseConsumerRequest {
        consumer: "unknown".into(),
        request_id: request_id(),
        reason: "no reason".into(),
    };
    let refused = operations(&fixture)
        .pause_consumer(by(FACILITY, pause))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn an_administrator_audits_and_republishes_once() {
    let fixture = Fixture::flowing().await;
    let operations = operations(&fixture);
    let aggregate = Uuid::new_v4();
    let events = fixture.append(aggregate, 1..=3).await;
    fixture.effects(aggregate, 3).await;
    let jetstream = async_nats::jetstream::new(fixture.nats.client().await);
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    stream.delete_message(2).await.unwrap();

    let audit = operations
        .audit_events(by(FACILITY, Default::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((audit.logged_count, audit.missing_count), (3, 1));
    assert_eq!(audit.missing_event_ids, [events[1].id.to_string()]);
    let request = ops::RepublishEventsRequest {
        window: None,
        request_id: request_id(),
    };
    for _ in 0..2 {
        let answer = operations
            .republish_events(by(FACILITY, request.clone()))
            .await
            .unwrap();
        assert_eq!(answer.get_ref().republished_count, 1);
    }
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    assert_eq!(stream.get_info().await.unwrap().state.messages, 3);
}

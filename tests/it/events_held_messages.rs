//! A message that the broker refuses for its own content is held and listed, and everything else is published.

use std::time::Duration;

use async_nats::jetstream;
use events::{EventOperations, Operator};
use proto::ops::v1::{self as ops, event_service_server::EventService as _};
use tests::{
    Nats,
    backbone::{FACILITY, published},
    eventually,
};
use tonic::Code;
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::{DeadLetterFixture, by},
    events_fixture::{Fixture, SOON, event},
};

const BACKLOG: &str = "select count(*) from events.outbox";
const HELD: &str = "select count(*) from events.held";

/// An event of a confirmed order with a body of about `bytes` bytes, made large by an unknown field.
fn large(aggregate: Uuid, version: i64, bytes: usize) -> events::Event {
    let mut event = event(aggregate, version);
    // Field 100, length-delimited.
    event.body.extend([0xa2, 0x06]);
    let mut length = bytes;
    while length >= 0x80 {
        event.body.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    event.body.push(length as u8);
    event.body.extend(std::iter::repeat_n(b'x', bytes));
    event
}

fn operations(fixture: &Fixture) -> EventOperations {
    EventOperations::new(&fixture.bus, &fixture.pool, |extensions| {
        Ok(extensions
            .get::<Operator>()
            .expect("the test says who calls")
            .clone())
    })
}

async fn held(operator: &EventOperations) -> Vec<ops::HeldMessage> {
    let request = by(FACILITY, ops::ListHeldMessagesRequest::default());
    operator
        .list_held_messages(request)
        .await
        .unwrap()
        .into_inner()
        .messages
}

async fn eventually_held(operator: &EventOperations, count: usize) -> Vec<ops::HeldMessage> {
    eventually(SOON, || async {
        let messages = held(operator).await;
        if messages.len() == count {
            Ok(messages)
        } else {
            Err(format!("{messages:?}"))
        }
    })
    .await
}

#[tokio::test]
async fn an_event_above_a_lowered_max_payload_is_held_alone_and_published_once_the_limit_is_restored() {
    let nats = Nats::start().await;
    nats.set_max_payload(64 << 10).await;
    let mut fixture = Fixture::on(nats, |settings| settings.relay.held_retry_ms = 200).await;
    let operator = operations(&fixture);
    fixture.publish();
    fixture.consume(|_| Ok(()));
    let (too_large, other) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.append(too_large, [1]).await;
    fixture.append_all(&[large(too_large, 2, 100 << 10)]).await;
    fixture.append(too_large, [3]).await;
    fixture.append(other, 1..=20).await;
    assert_eq!(fixture.effects(other, 20).await, (1..=20).collect::<Vec<_>>());
    let messages = eventually_held(&operator, 1).await;
    assert_eq!(messages[0].code, "TOO_LARGE");
    assert_eq!(messages[0].kind(), ops::HeldMessageKind::Event);
    assert_eq!(messages[0].aggregate_id, too_large.to_string());
    assert!(
        messages[0].reason.contains("max_payload"),
        "{}",
        messages[0].reason
    );
    eventually(SOON, || async { held(&operator).await[0].waiting_count == 1 }).await;
    assert_eq!(
        fixture.versions(too_large).await,
        [1],
        "what follows it waits behind it"
    );

    let listed = operator
        .list_consumers(by(FACILITY, ops::ListConsumersRequest::default()))
        .await
        .unwrap();
    assert_eq!(listed.get_ref().held_message_count, 1);
    let foreign = by("other", ops::ListHeldMessagesRequest::default());
    let foreign = operator.list_held_messages(foreign).await.unwrap();
    assert_eq!(foreign.get_ref().messages, []);

    fixture.nats.set_max_payload(1 << 20).await;
    assert_eq!(fixture.effects(too_large, 3).await, [1, 2, 3]);
    fixture.eventually_count(0, HELD).await;
    fixture.eventually_count(0, BACKLOG).await;
}

#[tokio::test]
async fn any_number_of_events_behind_a_held_one_are_set_aside_and_published_in_order() {
    let nats = Nats::start().await;
    nats.set_max_payload(64 << 10).await;
    let mut fixture = Fixture::on(nats, |settings| {
        settings.relay.held_retry_ms = 200;
        // 64 events of a lane are read at once.
        settings.relay.batch = 50;
    })
    .await;
    let operator = operations(&fixture);
    let too_large = Uuid::new_v4();
    let neighbour = Uuid::from_u128(too_large.as_u128() ^ (1 << 64));
    fixture.append_all(&[large(too_large, 1, 100 << 10)]).await;
    fixture.append(too_large, 2..=1_100).await;
    fixture.append(neighbour, [1]).await;
    fixture.publish();
    fixture.consume(|_| Ok(()));
    assert_eq!(fixture.effects(neighbour, 1).await, [1], "one of the same lane");
    fixture.append(too_large, [1_101]).await;
    fixture.append(neighbour, [2]).await;
    assert_eq!(fixture.effects(neighbour, 2).await, [1, 2]);
    let aside = "select count(*) from events.outbox where lane < 0";
    fixture.eventually_count(1_101, aside).await;
    let [message] = &held(&operator).await[..] else {
        panic!("one is held")
    };
    assert_eq!((message.waiting_count, message.waiting_partial), (1_000, true));
    let since = "select count(*) from events.outbox_depth() where depth = 1101 and since is null";
    fixture.eventually_count(1, since).await;

    fixture.nats.set_max_payload(1 << 20).await;
    let versions = fixture.effects(too_large, 1_101).await;
    assert_eq!(versions, (1..=1_101).collect::<Vec<_>>());
    fixture.eventually_count(0, BACKLOG).await;
    fixture.eventually_count(0, HELD).await;
    let displaced = "select count(*) from events.event_log where lane < 0";
    assert_eq!(
        fixture.database.count(displaced).await,
        0,
        "each has its lane again"
    );
}

#[tokio::test]
async fn an_event_that_the_stream_refuses_can_be_discarded_and_is_not_missing_afterwards() {
    let mut fixture = Fixture::with(|settings| settings.relay.held_retry_ms = 3_600_000).await;
    let operator = operations(&fixture);
    eventually(SOON, || async { fixture.bus.status().borrow().then_some(()) }).await;
    let context = jetstream::new(fixture.nats.client().await);
    let mut stream = context.get_stream("EVENTS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_message_size = 32 << 10;
    context.update_stream(&config).await.unwrap();
    fixture.publish();
    fixture.consume(|_| Ok(()));
    let aggregate = Uuid::new_v4();
    fixture
        .append_all(&[
            event(aggregate, 1),
            large(aggregate, 2, 40 << 10),
            event(aggregate, 3),
        ])
        .await;
    let [message] = &eventually_held(&operator, 1).await[..] else {
        panic!("one is held")
    };
    assert_eq!(message.code, "TOO_LARGE");
    let request = ops::DiscardHeldMessageRequest {
        position: message.position,
        reason: "no reader takes it".into(),
        request_id: Uuid::new_v4().to_string(),
    };
    let foreign = operator
        .discard_held_message(by("other", request.clone()))
        .await
        .unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
    operator
        .discard_held_message(by(FACILITY, request))
        .await
        .unwrap();
    assert_eq!(fixture.effects(aggregate, 2).await, [1, 3]);
    fixture.eventually_count(0, BACKLOG).await;
    let audit = events::Audit::new(&fixture.bus, &fixture.pool);
    let report = audit.compare(Duration::from_secs(86_400)).await.unwrap();
    assert_eq!(
        (report.logged, report.missing.len()),
        (2, 0),
        "it is withheld, not missing"
    );
    let said = "select count(*) from events.operator_action where action = 'DiscardHeldMessage'";
    assert_eq!(fixture.database.count(said).await, 1);
}

#[tokio::test]
async fn messages_of_a_forbidden_subject_are_held_and_retried_by_an_operator() {
    let nats = Nats::forbidding("dlq.>").await;
    let fixture = DeadLetterFixture::on(nats, [1], |settings| {
        settings.relay.ack_timeout_ms = 1_000;
        settings.relay.held_retry_ms = 3_600_000;
    })
    .await;
    let operator = operations(&fixture.backbone);
    fixture.backbone.append(Uuid::new_v4(), [1]).await;
    let other = Uuid::new_v4();
    fixture.backbone.append(other, 2..=20).await;
    fixture.open(1).await;
    let messages = eventually_held(&operator, 1).await;
    assert_eq!(messages[0].code, "NOT_PERMITTED");
    assert_eq!(messages[0].kind(), ops::HeldMessageKind::DeadLetterCopy);
    assert_eq!(
        fixture.backbone.effects(other, 19).await,
        (2..=20).collect::<Vec<_>>()
    );
    outbox_is_drained(&fixture.backbone).await;

    fixture.backbone.nats.forbid_publishing("nothing.at.all").await;
    fixture.backbone.bus_is_ready().await;
    // The permission is checked again only when the message is retried.
    let request = ops::RetryHeldMessagesRequest {
        position: messages[0].position,
        request_id: Uuid::new_v4().to_string(),
    };
    let answer = operator.retry_held_messages(by(FACILITY, request)).await.unwrap();
    assert_eq!(answer.get_ref().retried_count, 1);
    fixture.backbone.eventually_count(0, HELD).await;
    fixture
        .backbone
        .eventually_count(0, "select count(*) from events.notice")
        .await;
}

async fn outbox_is_drained(fixture: &Fixture) {
    fixture.eventually_count(0, BACKLOG).await;
}

#[tokio::test]
async fn a_dead_letter_of_any_size_is_copied_without_its_body_and_can_be_replayed() {
    let nats = Nats::start().await;
    nats.set_max_payload(64 << 10).await;
    let fixture = DeadLetterFixture::on(nats, [1], |_| {}).await;
    let aggregate = Uuid::new_v4();
    // With the failure in its headers the copy is too large, without its body it is not.
    let headers = 900;
    fixture
        .backbone
        .append_all(&[large(aggregate, 1, (64 << 10) - headers), event(aggregate, 2)])
        .await;
    let [letter] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    fixture
        .backbone
        .eventually_count(0, "select count(*) from events.notice")
        .await;
    assert_eq!(fixture.backbone.database.count(HELD).await, 0);
    let context = jetstream::new(fixture.backbone.nats.client().await);
    let stream = context.get_stream("DEAD_LETTERS").await.unwrap();
    let copy = stream.get_raw_message(1).await.unwrap();
    assert_eq!(copy.payload.len(), 0);
    let omitted = copy.headers.get("weft-body-omitted").unwrap().as_str();
    assert!(omitted.parse::<usize>().unwrap() > 60_000, "{omitted}");

    fixture.stop_failing();
    fixture.replay(&letter.id).await;
    assert_eq!(fixture.backbone.effects(aggregate, 2).await, [1, 2]);
    assert_eq!(
        published(&fixture.backbone.nats).await.len(),
        2,
        "a replay brings no event"
    );
}

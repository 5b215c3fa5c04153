//! Events that a consumer fails to process are kept, shown and replayed; events of other aggregates never wait for
//! them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use async_nats::jetstream;
use events::{Delivery, Handler, HandlerError};
use proto::ops::v1 as ops;
use sqlx::PgConnection;
use tests::eventually;
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::DeadLetterFixture,
    events_fixture::{CONSUMER, Fixture, SOON, event},
};

#[tokio::test]
async fn a_failing_event_is_dead_lettered_and_replayed_once_and_the_later_ones_follow_in_order() {
    let fixture = DeadLetterFixture::start([2]).await;
    let (bad, good) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.backbone.append(bad, 1..=4).await;
    fixture.backbone.append(good, [1, 3, 4]).await;
    assert_eq!(fixture.backbone.effects(good, 3).await, [1, 3, 4]);
    let [letter] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    fixture
        .backbone
        .eventually_count(2, "select count(*) from events.parked")
        .await;
    assert_eq!(fixture.backbone.versions(bad).await, [1]);

    let shown = fixture.get(&letter.id).await;
    let kept = shown.dead_letter.unwrap();
    assert_eq!(
        (kept.consumer.as_str(), kept.error_code.as_str()),
        (CONSUMER, "ORDER_ODD")
    );
    assert_eq!(
        (kept.error_class(), kept.attempts),
        (ops::ErrorClass::Permanent, 1)
    );
    assert_eq!((kept.parked_count, kept.aggregate_version), (2, 2));
    assert_eq!(shown.body_json, format!(r#"{{"orderId":"{bad}"}}"#));
    assert_eq!(
        shown
            .parked
            .iter()
            .map(|event| event.aggregate_version)
            .collect::<Vec<_>>(),
        [3, 4]
    );
    assert!(
        shown
            .headers
            .iter()
            .any(|header| header.name == "ce-id" && header.value == kept.event_id)
    );

    fixture.stop_failing();
    fixture.replay(&letter.id).await;
    assert_eq!(fixture.backbone.effects(bad, 4).await, [1, 2, 3, 4]);
    fixture
        .until_state(&letter.id, ops::DeadLetterState::Resolved)
        .await;
    fixture
        .backbone
        .eventually_count(0, "select count(*) from events.parked_key")
        .await;
    fixture.backbone.append(bad, [5]).await;
    assert_eq!(fixture.backbone.effects(bad, 5).await, [1, 2, 3, 4, 5]);
    let actions = fixture.get(&letter.id).await.actions;
    assert_eq!(
        (actions[0].action.as_str(), actions[0].actor.as_str()),
        ("ReplayDeadLetter", "olivia")
    );
}

#[tokio::test]
async fn the_copy_in_the_stream_has_the_failure_in_its_headers() {
    let fixture = DeadLetterFixture::start([1]).await;
    let sent = &fixture.backbone.append(Uuid::new_v4(), [1]).await[0];
    let [letter] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    let jetstream = jetstream::new(fixture.backbone.nats.client().await);
    let stream = jetstream.get_stream("DEAD_LETTERS").await.unwrap();
    let message = eventually(SOON, || stream.direct_get(1)).await;
    assert_eq!(
        message.subject.as_str(),
        format!("dlq.order.{CONSUMER}.permanent")
    );
    assert_eq!(message.payload, sent.body);
    for (name, value) in [
        ("weft-dead-letter", letter.id.as_str()),
        ("weft-stream", "EVENTS"),
        ("weft-subject", "evt.order.order.confirmed"),
        ("weft-sequence", "1"),
        ("weft-message-id", sent.id.to_string().as_str()),
        ("weft-consumer", CONSUMER),
        ("weft-attempts", "1"),
        ("weft-error-class", "permanent"),
        ("weft-error-code", "ORDER_ODD"),
        ("weft-fingerprint", letter.fingerprint.as_str()),
        ("weft-replay-count", "0"),
        ("ce-id", sent.id.to_string().as_str()),
    ] {
        let header = message
            .headers
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(header.as_str(), value, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_its_type_is_a_schema_error() {
    let fixture = DeadLetterFixture::start([]).await;
    let mut broken = event(Uuid::new_v4(), 1);
    broken.body = vec![0xff, 0xff];
    fixture.backbone.append_all(&[broken]).await;
    let [letter] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    assert_eq!(letter.error_class(), ops::ErrorClass::Schema);
    let shown = fixture.get(&letter.id).await;
    assert!(shown.body_json.is_empty() && !shown.decode_error.is_empty());
    assert_eq!(shown.body, [0xff, 0xff]);
}

#[tokio::test]
async fn a_lasting_error_exhausts_its_attempts() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let healed = Arc::new(AtomicBool::new(false));
    let heals = healed.clone();
    fixture.consume(move |delivery| match delivery.version {
        1 if !heals.load(Ordering::SeqCst) => Err(HandlerError::transient("PAYER_DOWN", "no answer")),
        2 if !heals.load(Ordering::SeqCst) => panic!("a defect"),
        _ => Ok(()),
    });
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.append(first, [1]).await;
    fixture.append(second, [2]).await;
    let exhausted =
        "select count(*) from events.dead_letter where error_class = 'exhausted' and attempts = 5";
    fixture.eventually_count(2, exhausted).await;
    let panicked = "select count(*) from events.dead_letter
                    where error_code = 'HANDLER_PANICKED' and error_message = 'a defect'";
    assert_eq!(fixture.database.count(panicked).await, 1);
    healed.store(true, Ordering::SeqCst);
    fixture.append(Uuid::new_v4(), [1]).await;
    fixture.eventually_count(1, "select count(*) from effect").await;
}

#[tokio::test]
async fn a_replay_that_fails_again_opens_the_dead_letter_again() {
    let fixture = DeadLetterFixture::start([1]).await;
    let aggregate = Uuid::new_v4();
    fixture.backbone.append(aggregate, 1..=2).await;
    let [letter] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    fixture.replay(&letter.id).await;
    fixture
        .backbone
        .eventually_count(
            1,
            "select count(*) from events.dead_letter where attempts = 2 and state = 'open'",
        )
        .await;
    assert!(fixture.backbone.versions(aggregate).await.is_empty());
    fixture.stop_failing();
    fixture.replay(&letter.id).await;
    assert_eq!(fixture.backbone.effects(aggregate, 2).await, [1, 2]);
    assert_eq!(fixture.get(&letter.id).await.dead_letter.unwrap().replay_count, 2);
}

#[tokio::test]
async fn a_parked_event_that_fails_becomes_the_dead_letter_that_blocks_its_aggregate() {
    let fixture = DeadLetterFixture::start([1, 3]).await;
    let aggregate = Uuid::new_v4();
    fixture.backbone.append(aggregate, 1..=5).await;
    let [first] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    fixture
        .backbone
        .eventually_count(4, "select count(*) from events.parked")
        .await;
    fixture.poison.lock().unwrap().remove(&1);
    fixture.replay(&first.id).await;
    fixture
        .until_state(&first.id, ops::DeadLetterState::Resolved)
        .await;
    let [second] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    assert_eq!((second.aggregate_version, second.parked_count), (3, 2));
    assert_eq!(fixture.backbone.versions(aggregate).await, [1, 2]);
    fixture.stop_failing();
    fixture.replay(&second.id).await;
    assert_eq!(fixture.backbone.effects(aggregate, 5).await, [1, 2, 3, 4, 5]);
}

/// A handler that kills its process: its attempts never end.
struct KillsProcess(Arc<AtomicU32>);

impl Handler for KillsProcess {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        if delivery.version == 13 {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        sqlx::query("insert into effect (event_id, aggregate_id, version) values ($1, $2, $3)")
            .bind(delivery.id)
            .bind(delivery.aggregate_id)
            .bind(delivery.version)
            .execute(tx)
            .await?;
        Ok(())
    }
}

#[tokio::test]
async fn an_event_that_kills_the_process_is_quarantined_and_the_others_are_consumed() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let (deadly, other) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.append(deadly, 13..=14).await;
    fixture.append(other, 1..=3).await;
    let starts = Arc::new(AtomicU32::new(0));
    // The first death leaves only a delivery; the next two are recorded.
    for death in 1..=3 {
        let process = fixture.consume_with(KillsProcess(starts.clone()));
        eventually(SOON, || async { starts.load(Ordering::SeqCst) == death }).await;
        process.abort();
    }
    fixture.consume_with(KillsProcess(starts.clone()));
    fixture
        .eventually_count(
            1,
            "select count(*) from events.dead_letter where error_class = 'crash'",
        )
        .await;
    assert_eq!(fixture.effects(other, 3).await, [1, 2, 3]);
    fixture
        .eventually_count(1, "select count(*) from events.parked")
        .await;
    assert_eq!(starts.load(Ordering::SeqCst), 3);
}

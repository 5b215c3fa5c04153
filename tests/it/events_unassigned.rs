//! Messages without a readable facility: only administrators see and handle them, and they block nothing.

use async_nats::HeaderMap;
use events::Operator;
use prost::Message as _;
use proto::{
    ops::v1::{self as ops, dead_letter_service_server::DeadLetterService as _},
    order::v1::OrderConfirmed,
};
use sqlx::Executor as _;
use tests::eventually;
use tonic::{Code, Request};
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::{DeadLetterFixture, by, from},
    events_fixture::{FACILITY, Fixture, SOON},
};

/// A request of an administrator of another facility.
fn by_administrator<M>(message: M) -> Request<M> {
    let caller = Operator {
        facility: "head-office".into(),
        subject: "adele".into(),
        administrator: true,
    };
    from(caller, message)
}

/// Publishes a confirmed order with only these headers besides its aggregate's.
async fn publish(fixture: &Fixture, aggregate: Uuid, headers: &[(&str, &str)]) {
    let key = aggregate.to_string();
    let mut all = HeaderMap::new();
    for (name, value) in headers
        .iter()
        .chain(&[("ce-partitionkey", key.as_str()), ("ce-sequence", "1")])
    {
        all.insert(*name, *value);
    }
    let body = OrderConfirmed {
        order_id: aggregate.to_string(),
    };
    let jetstream = async_nats::jetstream::new(fixture.nats.client().await);
    eventually(SOON, || jetstream.get_stream("EVENTS")).await;
    let publish =
        jetstream.publish_with_headers("evt.order.order.confirmed", all, body.encode_to_vec().into());
    publish.await.unwrap().await.unwrap();
}

/// Waits until an administrator sees this many.
async fn unassigned(fixture: &DeadLetterFixture, count: usize) -> Vec<ops::DeadLetter> {
    eventually(SOON, || async {
        let request = by_administrator(ops::ListDeadLettersRequest::default());
        let answer = fixture.operator.list_dead_letters(request).await.unwrap();
        let letters = answer.into_inner().dead_letters;
        if letters.len() == count {
            Ok(letters)
        } else {
            Err(format!("{} dead letters", letters.len()))
        }
    })
    .await
}

fn request_id() -> String {
    Uuid::new_v4().to_string()
}

fn replay(letter: &ops::DeadLetter) -> ops::ReplayDeadLetterRequest {
    ops::ReplayDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
        request_id: request_id(),
    }
}

fn get(letter: &ops::DeadLetter) -> ops::GetDeadLetterRequest {
    ops::GetDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
    }
}

fn discard(letter: &ops::DeadLetter) -> ops::DiscardDeadLetterRequest {
    ops::DiscardDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
        request_id: request_id(),
        reason: "the sender sends it again".into(),
    }
}

#[tokio::test]
async fn a_message_without_a_facility_is_handled_by_administrators() {
    let fixture = DeadLetterFixture::start([]).await;
    let aggregate = Uuid::new_v4();
    publish(&fixture.backbone, aggregate, &[]).await;
    let [letter] = &unassigned(&fixture, 1).await[..] else {
        panic!("one dead letter")
    };
    assert_eq!(letter.error_class(), ops::ErrorClass::Schema);
    assert_eq!(
        (letter.facility.as_str(), letter.error_code.as_str()),
        ("", "ENVELOPE_MALFORMED")
    );
    let shown = fixture
        .operator
        .get_dead_letter(by_administrator(get(letter)))
        .await
        .unwrap();
    assert_eq!(
        shown.get_ref().body_json,
        format!(r#"{{"orderId":"{aggregate}"}}"#),
        "its type is read from its subject"
    );
    let groups = fixture
        .operator
        .list_dead_letter_groups(by_administrator(Default::default()))
        .await
        .unwrap();
    assert_eq!(groups.get_ref().groups[0].count, 1);

    // This build cannot read it before or after the replay.
    fixture
        .operator
        .replay_dead_letter(by_administrator(replay(letter)))
        .await
        .unwrap();
    let failed_again = "select count(*) from events.dead_letter where state = 'open' and replay_count = 1";
    fixture.backbone.eventually_count(1, failed_again).await;
    let group = ops::ReplayDeadLetterGroupRequest {
        fingerprint: letter.fingerprint.clone(),
        request_id: request_id(),
        rate: 100,
        mode: ops::ReplayMode::Canary.into(),
    };
    let run = fixture
        .operator
        .replay_dead_letter_group(by_administrator(group))
        .await
        .unwrap();
    let replay_run_id = run.into_inner().run.unwrap().id;
    eventually(SOON, || async {
        let request = ops::GetReplayRunRequest {
            replay_run_id: replay_run_id.clone(),
        };
        let answer = fixture
            .operator
            .get_replay_run(by_administrator(request))
            .await
            .unwrap();
        let run = answer.into_inner().run.unwrap();
        if (run.state(), run.failed_count) == (ops::ReplayRunState::Stopped, 1) {
            Ok(())
        } else {
            Err(format!("{run:?}"))
        }
    })
    .await;

    fixture
        .operator
        .discard_dead_letter(by_administrator(discard(letter)))
        .await
        .unwrap();
    let another = Operator {
        facility: "elsewhere".into(),
        subject: "arthur".into(),
        administrator: true,
    };
    let shown = fixture
        .operator
        .get_dead_letter(from(another, get(letter)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        shown.dead_letter.unwrap().state(),
        ops::DeadLetterState::Discarded
    );
    let done: Vec<_> = shown
        .actions
        .iter()
        .map(|action| (action.action.as_str(), action.actor.as_str()))
        .collect();
    assert_eq!(
        done,
        [("ReplayDeadLetter", "adele"), ("DiscardDeadLetter", "adele")]
    );
    fixture
        .backbone
        .eventually_count(0, "select count(*) from events.parked_key")
        .await;
}

#[tokio::test]
async fn only_administrators_see_a_message_without_a_facility() {
    let fixture = DeadLetterFixture::start([]).await;
    for garbage in [
        "two words",
        "nul\0",
        "'; drop table events.dead_letter; --",
        &"x".repeat(5_000),
    ] {
        publish(&fixture.backbone, Uuid::new_v4(), &[("ce-facility", garbage)]).await;
    }
    let letters = unassigned(&fixture, 4).await;
    for facility in [FACILITY, "head-office", ""] {
        // Only an administrator, of any facility, sees them.
        let listed = fixture
            .operator
            .list_dead_letters(by(facility, Default::default()))
            .await
            .unwrap();
        let groups = fixture
            .operator
            .list_dead_letter_groups(by(facility, Default::default()))
            .await
            .unwrap();
        assert!(listed.get_ref().dead_letters.is_empty() && groups.get_ref().groups.is_empty());
        let refusals = [
            fixture
                .operator
                .get_dead_letter(by(facility, get(&letters[0])))
                .await
                .err(),
            fixture
                .operator
                .replay_dead_letter(by(facility, replay(&letters[0])))
                .await
                .err(),
            fixture
                .operator
                .discard_dead_letter(by(facility, discard(&letters[0])))
                .await
                .err(),
        ];
        for refused in refusals {
            assert_eq!(refused.unwrap().code(), Code::NotFound);
        }
    }
    let mut connection = fixture.backbone.pool.acquire().await.unwrap();
    connection
        .execute("select set_config('weft.facility', '', false)")
        .await
        .unwrap();
    let seen = sqlx::query_scalar::<_, i64>("select count(*) from events.dead_letter");
    assert_eq!(seen.fetch_one(&mut *connection).await.unwrap(), 0);
}

#[tokio::test]
async fn a_message_without_or_of_another_facility_does_not_block_the_aggregate_it_names() {
    let fixture = DeadLetterFixture::start([2]).await;
    let aggregate = Uuid::new_v4();
    publish(&fixture.backbone, aggregate, &[]).await;
    unassigned(&fixture, 1).await;
    fixture.backbone.append(aggregate, 1..=3).await;
    assert_eq!(fixture.backbone.effects(aggregate, 1).await, [1]);
    let [letter] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    // The aggregate is blocked now: neither of these takes over the block, or waits for it.
    publish(&fixture.backbone, aggregate, &[]).await;
    publish(
        &fixture.backbone,
        aggregate,
        &[("ce-facility", "other"), ("ce-id", "no id")],
    )
    .await;
    publish(
        &fixture.backbone,
        Uuid::new_v4(),
        &[("ce-facility", "other"), ("ce-id", &letter.event_id)],
    )
    .await;
    unassigned(&fixture, 2).await;
    let of_another = "select count(*) from events.dead_letter where facility = 'other'";
    fixture.backbone.eventually_count(1, of_another).await;
    fixture.stop_failing();
    fixture.replay(&letter.id).await;
    assert_eq!(fixture.backbone.effects(aggregate, 3).await, [1, 2, 3]);
    let jetstream = async_nats::jetstream::new(fixture.backbone.nats.client().await);
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    eventually(SOON, || async {
        let mut consumer: async_nats::jetstream::consumer::PullConsumer = stream
            .get_consumer(crate::events_fixture::CONSUMER)
            .await
            .unwrap();
        let info = consumer.info().await.unwrap();
        (info.num_pending, info.num_ack_pending) == (0, 0)
    })
    .await;
}

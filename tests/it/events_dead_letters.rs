//! Events that a consumer gives up on: kept, shown, replayed, discarded; and the others never wait for them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_nats::jetstream;
use events::{Caller, DeadLetters, HandlerError, Upkeep};
use proto::ops::v1::{self as ops, dead_letter_service_server::DeadLetterService as _};
use tests::eventually;
use tonic::{Code, Request};
use uuid::Uuid;

use crate::events_rig::{CONSUMER, FACILITY, Rig, SOON, event};

/// Events with these versions fail for good, until they are taken out.
type Poison = Arc<Mutex<BTreeSet<i64>>>;

struct Story {
    rig: Rig,
    poison: Poison,
    operator: DeadLetters,
}

impl Story {
    async fn start(poisoned: impl IntoIterator<Item = i64>) -> Story {
        let mut rig = Rig::start().await;
        rig.publish();
        let poison: Poison = Arc::new(Mutex::new(poisoned.into_iter().collect()));
        let poisoned = poison.clone();
        rig.consume(move |delivery| {
            if poisoned.lock().unwrap().contains(&delivery.version) {
                let text = format!(
                    "order {} cannot be version {}",
                    delivery.aggregate_id, delivery.version
                );
                return Err(HandlerError::permanent("ORDER_ODD", text));
            }
            Ok(())
        });
        let upkeep = Upkeep::new(&rig.bus, &rig.pool);
        rig.spawn(|stop| upkeep.run(stop));
        let operator = DeadLetters::new(&rig.bus, &rig.pool, b"sixteen bytes or more", |extensions| {
            Ok(extensions
                .get::<Caller>()
                .expect("the test says who calls")
                .clone())
        });
        Story {
            rig,
            poison,
            operator,
        }
    }

    fn cure(&self) {
        self.poison.lock().unwrap().clear();
    }

    /// Waits for this many open dead letters.
    async fn open(&self, count: usize) -> Vec<ops::DeadLetter> {
        eventually(SOON, || async {
            let request = ops::ListDeadLettersRequest {
                state: ops::DeadLetterState::Open.into(),
                ..Default::default()
            };
            let answer = self
                .operator
                .list_dead_letters(by(FACILITY, request))
                .await
                .unwrap();
            let letters = answer.into_inner().dead_letters;
            if letters.len() == count {
                Ok(letters)
            } else {
                Err(format!("{} are open", letters.len()))
            }
        })
        .await
    }

    async fn get(&self, id: &str) -> ops::GetDeadLetterResponse {
        let request = ops::GetDeadLetterRequest {
            dead_letter_id: id.to_owned(),
        };
        self.operator
            .get_dead_letter(by(FACILITY, request))
            .await
            .unwrap()
            .into_inner()
    }

    async fn replay(&self, id: &str) {
        let request = ops::ReplayDeadLetterRequest {
            dead_letter_id: id.to_owned(),
            request_id: Uuid::new_v4().to_string(),
        };
        self.operator
            .replay_dead_letter(by(FACILITY, request))
            .await
            .unwrap();
    }

    async fn until_state(&self, id: &str, state: ops::DeadLetterState) {
        eventually(SOON, || async {
            let is = self.get(id).await.dead_letter.unwrap().state();
            if is == state {
                Ok(())
            } else {
                Err(format!("{is:?}"))
            }
        })
        .await;
    }

    async fn run(&self, letter: &ops::DeadLetter, mode: ops::ReplayMode, rate: u32) -> ops::ReplayRun {
        let request = ops::ReplayDeadLetterGroupRequest {
            fingerprint: letter.fingerprint.clone(),
            request_id: Uuid::new_v4().to_string(),
            rate,
            mode: mode.into(),
        };
        let answer = self
            .operator
            .replay_dead_letter_group(by(FACILITY, request))
            .await
            .unwrap();
        let id = answer.into_inner().run.unwrap().id;
        eventually(SOON, || async {
            let request = ops::GetReplayRunRequest {
                replay_run_id: id.clone(),
            };
            let answer = self.operator.get_replay_run(by(FACILITY, request)).await.unwrap();
            let run = answer.into_inner().run.unwrap();
            if run.state() == ops::ReplayRunState::Running {
                Err(format!("{run:?}"))
            } else {
                Ok(run)
            }
        })
        .await
    }
}

fn by<M>(facility: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller {
        facility: facility.into(),
        subject: "olivia".into(),
    });
    request
}

#[tokio::test]
async fn a_poisoned_event_is_kept_shown_and_replayed_once_and_those_behind_it_follow_in_order() {
    let story = Story::start([2]).await;
    let (bad, good) = (Uuid::new_v4(), Uuid::new_v4());
    story.rig.append(bad, 1..=4).await;
    story.rig.append(good, [1, 3, 4]).await;
    assert_eq!(story.rig.effects(good, 3).await, [1, 3, 4]);
    let [letter] = &story.open(1).await[..] else {
        panic!("one dead letter")
    };
    story
        .rig
        .eventually_count(2, "select count(*) from events.parked")
        .await;
    assert_eq!(story.rig.versions(bad).await, [1]);

    let shown = story.get(&letter.id).await;
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

    story.cure();
    story.replay(&letter.id).await;
    assert_eq!(story.rig.effects(bad, 4).await, [1, 2, 3, 4]);
    story
        .until_state(&letter.id, ops::DeadLetterState::Resolved)
        .await;
    story
        .rig
        .eventually_count(0, "select count(*) from events.parked_key")
        .await;
    story.rig.append(bad, [5]).await;
    assert_eq!(story.rig.effects(bad, 5).await, [1, 2, 3, 4, 5]);
    let actions = story.get(&letter.id).await.actions;
    assert_eq!(
        (actions[0].action.as_str(), actions[0].actor.as_str()),
        ("ReplayDeadLetter", "olivia")
    );
}

#[tokio::test]
async fn the_copy_in_the_stream_tells_the_story_in_its_headers() {
    let story = Story::start([1]).await;
    let sent = &story.rig.append(Uuid::new_v4(), [1]).await[0];
    let [letter] = &story.open(1).await[..] else {
        panic!("one dead letter")
    };
    let jetstream = jetstream::new(story.rig.nats.client().await);
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
    let story = Story::start([]).await;
    let mut broken = event(Uuid::new_v4(), 1);
    broken.body = vec![0xff, 0xff];
    story.rig.append_all(&[broken]).await;
    let [letter] = &story.open(1).await[..] else {
        panic!("one dead letter")
    };
    assert_eq!(letter.error_class(), ops::ErrorClass::Schema);
    let shown = story.get(&letter.id).await;
    assert!(shown.body_json.is_empty() && !shown.decode_error.is_empty());
    assert_eq!(shown.body, [0xff, 0xff]);
}

#[tokio::test]
async fn an_error_that_does_not_go_away_exhausts_its_attempts() {
    let mut rig = Rig::start().await;
    rig.publish();
    let healed = Arc::new(AtomicBool::new(false));
    let heals = healed.clone();
    rig.consume(move |delivery| match delivery.version {
        1 if !heals.load(Ordering::SeqCst) => Err(HandlerError::transient("PAYER_DOWN", "no answer")),
        2 if !heals.load(Ordering::SeqCst) => panic!("a defect"),
        _ => Ok(()),
    });
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    rig.append(first, [1]).await;
    rig.append(second, [2]).await;
    let exhausted =
        "select count(*) from events.dead_letter where error_class = 'exhausted' and attempts = 5";
    rig.eventually_count(2, exhausted).await;
    let panicked = "select count(*) from events.dead_letter
                    where error_code = 'HANDLER_PANICKED' and error_message = 'a defect'";
    assert_eq!(rig.database.count(panicked).await, 1);
    healed.store(true, Ordering::SeqCst);
    rig.append(Uuid::new_v4(), [1]).await;
    rig.eventually_count(1, "select count(*) from effect").await;
}

#[tokio::test]
async fn a_replay_that_fails_again_opens_the_dead_letter_again() {
    let story = Story::start([1]).await;
    let aggregate = Uuid::new_v4();
    story.rig.append(aggregate, 1..=2).await;
    let [letter] = &story.open(1).await[..] else {
        panic!("one dead letter")
    };
    story.replay(&letter.id).await;
    story
        .rig
        .eventually_count(
            1,
            "select count(*) from events.dead_letter where attempts = 2 and state = 'open'",
        )
        .await;
    assert!(story.rig.versions(aggregate).await.is_empty());
    story.cure();
    story.replay(&letter.id).await;
    assert_eq!(story.rig.effects(aggregate, 2).await, [1, 2]);
    assert_eq!(story.get(&letter.id).await.dead_letter.unwrap().replay_count, 2);
}

#[tokio::test]
async fn a_parked_event_that_fails_becomes_the_new_head() {
    let story = Story::start([1, 3]).await;
    let aggregate = Uuid::new_v4();
    story.rig.append(aggregate, 1..=5).await;
    let [first] = &story.open(1).await[..] else {
        panic!("one dead letter")
    };
    story
        .rig
        .eventually_count(4, "select count(*) from events.parked")
        .await;
    story.poison.lock().unwrap().remove(&1);
    story.replay(&first.id).await;
    story.until_state(&first.id, ops::DeadLetterState::Resolved).await;
    let [second] = &story.open(1).await[..] else {
        panic!("one dead letter")
    };
    assert_eq!((second.aggregate_version, second.parked_count), (3, 2));
    assert_eq!(story.rig.versions(aggregate).await, [1, 2]);
    story.cure();
    story.replay(&second.id).await;
    assert_eq!(story.rig.effects(aggregate, 5).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_discarded_dead_letter_lets_the_rest_go_on_without_it() {
    let story = Story::start([2]).await;
    let aggregate = Uuid::new_v4();
    story.rig.append(aggregate, 1..=4).await;
    let [letter] = &story.open(1).await[..] else {
        panic!("one dead letter")
    };
    let request = ops::DiscardDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
        request_id: Uuid::new_v4().to_string(),
        reason: "the payer withdrew it".into(),
    };
    let discard = |request: &ops::DiscardDeadLetterRequest| {
        let request = by(FACILITY, request.clone());
        story.operator.discard_dead_letter(request)
    };
    let answer = discard(&request).await.unwrap();
    let repeated = discard(&request).await.unwrap();
    assert_eq!(repeated.get_ref(), answer.get_ref());
    assert_eq!(repeated.metadata().get("idempotency-replayed").unwrap(), "true");
    let reused = ops::DiscardDeadLetterRequest {
        reason: "something else".into(),
        ..request
    };
    assert_eq!(discard(&reused).await.unwrap_err().code(), Code::InvalidArgument);

    assert_eq!(story.rig.effects(aggregate, 3).await, [1, 3, 4]);
    let shown = story.get(&letter.id).await;
    assert_eq!(
        shown.dead_letter.unwrap().state(),
        ops::DeadLetterState::Discarded
    );
    assert_eq!(shown.actions.len(), 1);
    assert_eq!(shown.actions[0].detail, "the payer withdrew it");
    let again = ops::ReplayDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
        request_id: Uuid::new_v4().to_string(),
    };
    let refused = story
        .operator
        .replay_dead_letter(by(FACILITY, again))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn an_operator_sees_the_own_facility_only() {
    let story = Story::start([1]).await;
    story.rig.append(Uuid::new_v4(), [1]).await;
    let [letter] = &story.open(1).await[..] else {
        panic!("one dead letter")
    };
    let listed = story
        .operator
        .list_dead_letters(by("other", Default::default()))
        .await
        .unwrap();
    assert_eq!(listed.get_ref().dead_letters, []);
    let groups = story
        .operator
        .list_dead_letter_groups(by("other", Default::default()))
        .await
        .unwrap();
    assert_eq!(groups.get_ref().groups, []);
    let request = ops::GetDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
    };
    let refused = story
        .operator
        .get_dead_letter(by("other", request))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let request = ops::ReplayDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
        request_id: Uuid::new_v4().to_string(),
    };
    let refused = story
        .operator
        .replay_dead_letter(by("other", request))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let hidden = sqlx::query_scalar::<_, i64>("select count(*) from events.dead_letter");
    assert_eq!(hidden.fetch_one(&story.rig.pool).await.unwrap(), 0);
}

#[tokio::test]
async fn failures_of_one_kind_are_one_group_and_pages_hold_all_of_them() {
    let story = Story::start([1, 2]).await;
    for _ in 0..5 {
        story.rig.append(Uuid::new_v4(), [1]).await;
    }
    story.rig.append(Uuid::new_v4(), [2, 3]).await;
    story.open(6).await;
    let answer = story
        .operator
        .list_dead_letter_groups(by(FACILITY, Default::default()))
        .await
        .unwrap();
    let [group] = &answer.get_ref().groups[..] else {
        panic!("one group")
    };
    assert_eq!(group.count, 6);

    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ops::ListDeadLettersRequest {
            page_size: 4,
            page_token,
            fingerprint: group.fingerprint.clone(),
            ..Default::default()
        };
        let page = story
            .operator
            .list_dead_letters(by(FACILITY, request))
            .await
            .unwrap()
            .into_inner();
        seen.extend(page.dead_letters.into_iter().map(|letter| letter.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 6);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 6);
    let request = ops::ListDeadLettersRequest {
        page_token: "00ff".into(),
        ..Default::default()
    };
    let refused = story
        .operator
        .list_dead_letters(by(FACILITY, request))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_group_is_replayed_at_a_rate_and_reports_its_outcome() {
    let story = Story::start([1]).await;
    for _ in 0..15 {
        story.rig.append(Uuid::new_v4(), 1..=2).await;
    }
    let letters = story.open(15).await;
    story.cure();
    let run = story.run(&letters[0], ops::ReplayMode::Straight, 100).await;
    assert_eq!(run.state(), ops::ReplayRunState::Finished);
    assert_eq!(
        (run.total_count, run.resolved_count, run.failed_count),
        (15, 15, 0)
    );
    story
        .rig
        .eventually_count(30, "select count(*) from effect")
        .await;
}

#[tokio::test]
async fn a_canary_stops_at_the_first_failure_of_the_same_kind() {
    let story = Story::start([1]).await;
    for _ in 0..15 {
        story.rig.append(Uuid::new_v4(), [1]).await;
    }
    let letters = story.open(15).await;
    let run = story.run(&letters[0], ops::ReplayMode::Canary, 100).await;
    assert_eq!(run.state(), ops::ReplayRunState::Stopped);
    assert_eq!((run.sent_count, run.resolved_count, run.failed_count), (1, 0, 1));
    story.open(15).await;
    story.cure();
    let run = story.run(&letters[0], ops::ReplayMode::Canary, 100).await;
    assert_eq!(run.state(), ops::ReplayRunState::Finished);
    assert_eq!(run.resolved_count, 15);
}

//! Dry runs of replays, edits of dead letters, and recurring failures.

use events::{Delivery, EventOperations, Handler, HandlerError, Operator};
use proto::{
    ops::v1::{
        self as ops, dead_letter_service_server::DeadLetterService as _,
        event_service_server::EventService as _,
    },
    order::v1::OrderConfirmed,
};
use sqlx::PgConnection;
use tests::eventually;
use tokio_stream::StreamExt as _;
use tonic::Code;
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::{DeadLetterFixture, by},
    events_fixture::{FACILITY, Fixture, SOON, event},
};

/// Accepts only orders with the number `good`, and publishes an event about each.
struct GoodNumbersOnly;

impl Handler for GoodNumbersOnly {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        let order = delivery.decode::<OrderConfirmed>()?.order_id;
        sqlx::query("insert into effect (event_id, aggregate_id, version) values ($1, $2, $3)")
            .bind(delivery.id)
            .bind(delivery.aggregate_id)
            .bind(delivery.version)
            .execute(&mut *tx)
            .await?;
        events::append(tx, &[event(Uuid::new_v4(), 7)]).await?;
        match order.as_str() {
            "good" => Ok(()),
            _ => Err(HandlerError::permanent("ORDER_ODD", "the order is odd")),
        }
    }
}

fn rehearsal(letter: &ops::DeadLetter, body: &str) -> tonic::Request<ops::RehearseReplayRequest> {
    let request = ops::RehearseReplayRequest {
        dead_letter_id: letter.id.clone(),
        body_json: body.into(),
    };
    by(FACILITY, request)
}

fn edit(letter: &ops::DeadLetter, body: &str) -> tonic::Request<ops::EditDeadLetterRequest> {
    let request = ops::EditDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
        request_id: Uuid::new_v4().to_string(),
        body_json: body.into(),
        reason: "the order was misspelt".into(),
    };
    by(FACILITY, request)
}

/// A fixture with one dead letter, whose order number is not `good`.
async fn with_dead_letter(approval: bool) -> (DeadLetterFixture, Uuid, ops::DeadLetter) {
    let mut fixture = DeadLetterFixture::with(approval).await;
    let aggregate = Uuid::new_v4();
    fixture.backbone.consume_with(GoodNumbersOnly);
    fixture.backbone.append(aggregate, [1]).await;
    let letter = fixture.open(1).await.remove(0);
    (fixture, aggregate, letter)
}

#[tokio::test]
async fn a_dry_run_of_a_replay_reports_its_changes_and_commits_nothing() {
    let (fixture, aggregate, letter) = with_dead_letter(false).await;
    let bad = fixture
        .operator
        .rehearse_replay(rehearsal(&letter, ""))
        .await
        .unwrap();
    let bad = bad.into_inner();
    assert!(!bad.would_resolve);
    assert_eq!(
        (bad.error_class(), bad.error_code.as_str()),
        (ops::ErrorClass::Permanent, "ORDER_ODD")
    );

    let good = fixture
        .operator
        .rehearse_replay(rehearsal(&letter, r#"{"orderId": "good"}"#))
        .await
        .unwrap();
    let good = good.into_inner();
    assert!(good.would_resolve, "{good:?}");
    let change = ops::TableChange {
        table: "public.effect".into(),
        inserted_count: 1,
        ..Default::default()
    };
    assert_eq!(good.tables, [change]);
    assert_eq!(good.events.len(), 1);
    assert_eq!(good.events[0].event_type, "order.v1.OrderConfirmed");

    assert_eq!(fixture.backbone.versions(aggregate).await, Vec::<i64>::new());
    assert_eq!(
        fixture
            .backbone
            .database
            .count("select count(*) from events.event_log")
            .await,
        1
    );
    fixture.until_state(&letter.id, ops::DeadLetterState::Open).await;
}

#[tokio::test]
async fn an_edited_dead_letter_takes_effect_and_keeps_the_original_body() {
    let (fixture, aggregate, letter) = with_dead_letter(false).await;
    for broken in [r#"{"orderId": 5}"#, r#"{"order": "good"}"#, "{}{}", "good"] {
        let refused = fixture
            .operator
            .edit_dead_letter(edit(&letter, broken))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{broken}");
    }
    fixture
        .operator
        .edit_dead_letter(edit(&letter, r#"{"orderId": "good"}"#))
        .await
        .unwrap();
    fixture
        .until_state(&letter.id, ops::DeadLetterState::Resolved)
        .await;
    assert_eq!(fixture.backbone.versions(aggregate).await, [1]);
    let shown = fixture.get(&letter.id).await;
    let edit = shown.edit.unwrap();
    assert_eq!(edit.state(), ops::DeadLetterEditState::Applied);
    assert!(edit.original_body_json.contains(&aggregate.to_string()));
    assert_eq!(shown.actions[0].action, "EditDeadLetter");
    let log = "select count(*) from events.event_log where body like '%good%'::bytea";
    assert_eq!(
        fixture.backbone.database.count(log).await,
        0,
        "the log keeps what happened"
    );
}

#[tokio::test]
async fn an_edit_needs_the_approval_of_a_second_person_if_so_configured() {
    let (fixture, aggregate, letter) = with_dead_letter(true).await;
    let first = fixture
        .operator
        .edit_dead_letter(edit(&letter, r#"{"orderId": "nearly"}"#))
        .await
        .unwrap();
    let proposed = fixture
        .operator
        .edit_dead_letter(edit(&letter, r#"{"orderId": "good"}"#))
        .await
        .unwrap();
    fixture.until_state(&letter.id, ops::DeadLetterState::Open).await;

    let approve = |edit: ops::DeadLetterEdit, who: &str| {
        let mut request = by(
            FACILITY,
            ops::ApproveDeadLetterEditRequest {
                edit_id: edit.id,
                request_id: Uuid::new_v4().to_string(),
            },
        );
        let caller = Operator {
            facility: FACILITY.into(),
            subject: who.into(),
            administrator: false,
        };
        request.extensions_mut().insert(caller);
        fixture.operator.approve_dead_letter_edit(request)
    };
    let edit = proposed.into_inner().edit.unwrap();
    let own = approve(edit.clone(), "olivia").await.unwrap_err();
    assert_eq!(own.code(), Code::PermissionDenied);
    let replaced = approve(first.into_inner().edit.unwrap(), "peter")
        .await
        .unwrap_err();
    assert_eq!(replaced.code(), Code::FailedPrecondition);
    let approved = approve(edit, "peter").await.unwrap().into_inner().edit.unwrap();
    assert_eq!(
        (approved.proposed_by.as_str(), approved.approved_by.as_str()),
        ("olivia", "peter")
    );
    fixture
        .until_state(&letter.id, ops::DeadLetterState::Resolved)
        .await;
    assert_eq!(fixture.backbone.versions(aggregate).await, [1]);
}

#[tokio::test]
async fn a_recurring_failure_names_the_build_in_which_it_was_resolved() {
    let fixture = DeadLetterFixture::start([1]).await;
    fixture.backbone.append(Uuid::new_v4(), [1]).await;
    let letter = fixture.open(1).await.remove(0);
    assert_eq!(letter.resolved_before_version, "");
    fixture.stop_failing();
    fixture.replay(&letter.id).await;
    fixture
        .until_state(&letter.id, ops::DeadLetterState::Resolved)
        .await;
    fixture.poison.lock().unwrap().insert(1);
    fixture.backbone.append(Uuid::new_v4(), [1]).await;
    let back = fixture.open(1).await.remove(0);
    assert_eq!(back.fingerprint, letter.fingerprint);
    assert_eq!(back.resolved_before_version, "build-1");
}

#[tokio::test]
async fn administrators_tail_the_stream_and_see_what_applying_the_streams_would_change() {
    let fixture = Fixture::flowing().await;
    let operations = EventOperations::new(&fixture.bus, &fixture.pool, |extensions| {
        Ok(extensions.get::<Operator>().unwrap().clone())
    });
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, 1..=2).await;
    fixture.effects(aggregate, 2).await;
    let request = ops::TailEventsRequest {
        since: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        subject: String::new(),
    };
    let tail = operations
        .tail_events(by(FACILITY, request))
        .await
        .unwrap()
        .into_inner();
    let seen: Vec<_> = tail.take(2).map(|event| event.unwrap()).collect().await;
    assert_eq!(
        seen.iter()
            .map(|event| event.aggregate_version)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(seen[0].body_json, format!(r#"{{"orderId":"{aggregate}"}}"#));

    let apply = |validate_only| {
        let request = ops::ApplyStreamsRequest {
            request_id: Uuid::new_v4().to_string(),
            validate_only,
        };
        operations.apply_streams(by(FACILITY, request))
    };
    let settings = async |validate_only| {
        let differences = apply(validate_only).await.unwrap().into_inner().differences;
        differences
            .into_iter()
            .map(|difference| format!("{} {}", difference.object, difference.setting))
            .collect::<Vec<_>>()
    };
    assert_eq!(settings(true).await, Vec::<String>::new());
    let jetstream = async_nats::jetstream::new(async_nats::connect(fixture.nats.url()).await.unwrap());
    let mut config = jetstream
        .get_stream("EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_bytes = 32 << 20;
    jetstream.update_stream(config).await.unwrap();
    assert_eq!(settings(true).await, ["stream EVENTS max_bytes"]);
    assert_eq!(settings(false).await, ["stream EVENTS max_bytes"]);
    eventually(SOON, || async { settings(true).await.is_empty() }).await;
}

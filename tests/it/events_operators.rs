//! Operators and dead letters: they see those of their facility, discard them, and replay whole groups.

use std::collections::BTreeSet;

use events::Maintenance;
use proto::ops::v1::{self as ops, dead_letter_service_server::DeadLetterService as _};
use tonic::Code;
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::{DeadLetterFixture, by},
    events_fixture::{FACILITY, event},
};

#[tokio::test]
async fn the_events_behind_a_discarded_dead_letter_are_processed() {
    let fixture = DeadLetterFixture::start([2]).await;
    let aggregate = Uuid::new_v4();
    fixture.backbone.append(aggregate, 1..=4).await;
    let [letter] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    let request = ops::DiscardDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
        request_id: Uuid::new_v4().to_string(),
        reason: "the payer withdrew it".into(),
    };
    let discard = |request: &ops::DiscardDeadLetterRequest| {
        let request = by(FACILITY, request.clone());
        fixture.operator.discard_dead_letter(request)
    };
    let answer = discard(&request).await.unwrap();
    let repeated = discard(&request).await.unwrap();
    assert_eq!(repeated.get_ref(), answer.get_ref());
    assert_eq!(repeated.metadata().get("idempotency-replayed").unwrap(), "true");
    let reused = ops::DiscardDeadLetterRequest {
        reason: "something else".into(),
        ..request
    };
    assert_eq!(
        discard(&reused).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    assert_eq!(fixture.backbone.effects(aggregate, 3).await, [1, 3, 4]);
    let shown = fixture.get(&letter.id).await;
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
    let refused = fixture
        .operator
        .replay_dead_letter(by(FACILITY, again))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn an_operator_sees_only_dead_letters_of_its_facility() {
    let fixture = DeadLetterFixture::start([1]).await;
    fixture.backbone.append(Uuid::new_v4(), [1]).await;
    let [letter] = &fixture.open(1).await[..] else {
        panic!("one dead letter")
    };
    let listed = fixture
        .operator
        .list_dead_letters(by("other", Default::default()))
        .await
        .unwrap();
    assert_eq!(listed.get_ref().dead_letters, []);
    let groups = fixture
        .operator
        .list_dead_letter_groups(by("other", Default::default()))
        .await
        .unwrap();
    assert_eq!(groups.get_ref().groups, []);
    let request = ops::GetDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
    };
    let refused = fixture
        .operator
        .get_dead_letter(by("other", request))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let request = ops::ReplayDeadLetterRequest {
        dead_letter_id: letter.id.clone(),
        request_id: Uuid::new_v4().to_string(),
    };
    let refused = fixture
        .operator
        .replay_dead_letter(by("other", request))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let hidden = sqlx::query_scalar::<_, i64>("select count(*) from events.dead_letter");
    assert_eq!(hidden.fetch_one(&fixture.backbone.pool).await.unwrap(), 0);
}

#[tokio::test]
async fn failures_of_one_kind_are_one_group_and_pages_hold_all_of_them() {
    let fixture = DeadLetterFixture::start([1, 2]).await;
    for _ in 0..5 {
        fixture.backbone.append(Uuid::new_v4(), [1]).await;
    }
    fixture.backbone.append(Uuid::new_v4(), [2, 3]).await;
    fixture.open(6).await;
    let answer = fixture
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
        let page = fixture
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
    let refused = fixture
        .operator
        .list_dead_letters(by(FACILITY, request))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_group_is_replayed_at_a_rate_and_reports_its_outcome() {
    let fixture = DeadLetterFixture::start([1]).await;
    for _ in 0..15 {
        fixture.backbone.append(Uuid::new_v4(), 1..=2).await;
    }
    let letters = fixture.open(15).await;
    fixture.stop_failing();
    let run = fixture.run(&letters[0], ops::ReplayMode::Straight, 100).await;
    assert_eq!(run.state(), ops::ReplayRunState::Finished);
    assert_eq!(
        (run.total_count, run.resolved_count, run.failed_count),
        (15, 15, 0)
    );
    fixture
        .backbone
        .eventually_count(30, "select count(*) from effect")
        .await;
}

#[tokio::test]
async fn a_canary_stops_at_the_first_failure_of_the_same_kind() {
    let fixture = DeadLetterFixture::start([1]).await;
    for _ in 0..15 {
        fixture.backbone.append(Uuid::new_v4(), [1]).await;
    }
    let letters = fixture.open(15).await;
    let run = fixture.run(&letters[0], ops::ReplayMode::Canary, 100).await;
    assert_eq!(run.state(), ops::ReplayRunState::Stopped);
    assert_eq!((run.sent_count, run.resolved_count, run.failed_count), (1, 0, 1));
    fixture.open(15).await;
    fixture.stop_failing();
    let run = fixture.run(&letters[0], ops::ReplayMode::Canary, 100).await;
    assert_eq!(run.state(), ops::ReplayRunState::Finished);
    assert_eq!(run.resolved_count, 15);
}

#[tokio::test]
async fn all_open_dead_letters_are_replayed_in_one_run_whatever_their_kind() {
    let fixture = DeadLetterFixture::start([1]).await;
    let mut broken = event(Uuid::new_v4(), 2);
    broken.body = vec![0xff, 0xff];
    fixture.backbone.append_all(&[broken]).await;
    fixture.backbone.append(Uuid::new_v4(), [1]).await;
    let kinds: BTreeSet<_> = fixture
        .open(2)
        .await
        .into_iter()
        .map(|letter| letter.fingerprint)
        .collect();
    assert_eq!(kinds.len(), 2);
    fixture.stop_failing();
    let all_kinds = ops::DeadLetter::default();
    let run = fixture.run(&all_kinds, ops::ReplayMode::Straight, 100).await;
    assert_eq!(run.state(), ops::ReplayRunState::Finished);
    assert_eq!((run.total_count, run.resolved_count, run.failed_count), (2, 1, 1));
    let said = "select count(*) from events.operator_action where detail = 'all kinds, 2 dead letters'";
    assert_eq!(fixture.backbone.database.count(said).await, 1);
}

#[tokio::test]
async fn dead_letters_are_pruned_long_after_their_resolution_and_never_while_open() {
    let mut fixture = DeadLetterFixture::start([1, 2, 3]).await;
    let aggregates: Vec<_> = (0..3).map(|_| Uuid::new_v4()).collect();
    for (aggregate, version) in aggregates.iter().zip(1..) {
        fixture.backbone.append(*aggregate, [version]).await;
    }
    let letters = fixture.open(3).await;
    let of = |version: i64| {
        letters
            .iter()
            .find(|letter| letter.aggregate_version == version)
            .unwrap()
    };
    fixture.poison.lock().unwrap().remove(&1);
    let run = fixture.run(of(1), ops::ReplayMode::Straight, 100).await;
    assert_eq!(run.total_count, 3, "they are of one kind");
    let discard = ops::DiscardDeadLetterRequest {
        dead_letter_id: of(2).id.clone(),
        request_id: Uuid::new_v4().to_string(),
        reason: "entered twice".into(),
    };
    fixture
        .operator
        .discard_dead_letter(by(FACILITY, discard))
        .await
        .unwrap();
    fixture
        .backbone
        .eventually_count(1, "select count(*) from events.parked_key")
        .await;

    let owner = fixture.backbone.database.owner().await;
    let age = |days: i32| {
        sqlx::query("update events.dead_letter set created_at = now() - make_interval(days => $1),
                         resolved_at = case when resolved_at is not null then now() - make_interval(days => $1) end")
            .bind(days)
            .execute(&owner)
    };
    let prune = async |fixture: &mut DeadLetterFixture| {
        let maintenance = Maintenance::new(&fixture.backbone.bus, &fixture.backbone.pool);
        fixture.backbone.spawn(|stop| maintenance.run(stop));
    };
    // Another resolved dead letter shows that pruning has run.
    age(89).await.unwrap();
    sqlx::query("update events.dead_letter set resolved_at = now() - interval '91 days' where id = $1::uuid")
        .bind(&of(1).id)
        .execute(&owner)
        .await
        .unwrap();
    prune(&mut fixture).await;
    fixture
        .backbone
        .eventually_count(2, "select count(*) from events.dead_letter")
        .await;
    assert_eq!(
        fixture
            .backbone
            .database
            .count("select count(*) from events.replay_item")
            .await,
        2
    );

    age(1_000).await.unwrap();
    prune(&mut fixture).await;
    fixture
        .backbone
        .eventually_count(1, "select count(*) from events.dead_letter")
        .await;
    let open = fixture.open(1).await;
    assert_eq!(open[0].id, of(3).id);
    let audited = "select count(*) from events.operator_action";
    assert_eq!(
        fixture.backbone.database.count(audited).await,
        2,
        "what operators did stays on record"
    );
}

#[tokio::test]
async fn a_blocked_replay_run_does_not_block_the_others() {
    let fixture = DeadLetterFixture::start([1]).await;
    fixture.backbone.append(Uuid::new_v4(), [1]).await;
    let stuck = fixture.open(1).await.remove(0);
    let mut broken = event(Uuid::new_v4(), 2);
    broken.body = vec![0xff, 0xff];
    fixture.backbone.append_all(&[broken]).await;
    let letters = fixture.open(2).await;
    let other = letters.iter().find(|letter| letter.id != stuck.id).unwrap();
    assert_ne!(other.fingerprint, stuck.fingerprint);
    let refuse = format!(
        "create function refuse() returns trigger language plpgsql as
         $$ begin raise exception 'not now' using errcode = 'lock_not_available'; end $$;
         create trigger refuse before update on events.replay_item for each row
         when (old.dead_letter_id = '{}') execute function refuse()",
        stuck.id
    );
    let superuser = fixture.backbone.database.superuser().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse))
        .execute(&superuser)
        .await
        .unwrap();
    let request = ops::ReplayDeadLetterGroupRequest {
        fingerprint: stuck.fingerprint.clone(),
        request_id: Uuid::new_v4().to_string(),
        rate: 100,
        mode: ops::ReplayMode::Straight.into(),
    };
    let begun = fixture
        .operator
        .replay_dead_letter_group(by(FACILITY, request))
        .await;
    assert_eq!(begun.unwrap().get_ref().run.as_ref().unwrap().total_count, 1);
    let run = fixture.run(other, ops::ReplayMode::Straight, 100).await;
    assert_eq!((run.state(), run.sent_count), (ops::ReplayRunState::Finished, 1));
    // The first run continues as soon as it can.
    sqlx::query("drop trigger refuse on events.replay_item")
        .execute(&superuser)
        .await
        .unwrap();
    fixture.stop_failing();
    fixture
        .until_state(&stuck.id, ops::DeadLetterState::Resolved)
        .await;
}

#[tokio::test]
async fn a_hundred_blocked_replay_runs_do_not_block_a_later_one() {
    let fixture = DeadLetterFixture::start([1]).await;
    fixture.backbone.append(Uuid::new_v4(), [1]).await;
    let lost = fixture.open(1).await.remove(0);
    // The replay has no outcome in every one of these runs.
    let never = format!(
        "update events.dead_letter set state = 'replaying' where id = '{0}';
         insert into events.replay_run (id, facility, fingerprint, mode, rate, state, actor, total)
         select ('01900000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, '{FACILITY}', '', 'straight', 1, 'running',
             'olivia', 1 from generate_series(1, 120) n;
         insert into events.replay_item (run_id, dead_letter_id, facility, position, sent_at)
         select id, '{0}', facility, 1, now() from events.replay_run",
        lost.id
    );
    let superuser = fixture.backbone.database.superuser().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(never))
        .execute(&superuser)
        .await
        .unwrap();
    fixture.backbone.append(Uuid::new_v4(), [1]).await;
    let later = fixture.open(1).await.remove(0);
    fixture.stop_failing();
    let run = fixture.run(&later, ops::ReplayMode::Straight, 100).await;
    assert_eq!(
        (run.state(), run.resolved_count),
        (ops::ReplayRunState::Finished, 1)
    );
}

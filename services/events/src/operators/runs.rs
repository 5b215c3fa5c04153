//! Replays of groups: sent in the background, at a limited rate, and in steps in canary mode.

use std::sync::{Mutex, PoisonError};

use proto::ops::v1 as ops;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    Operator, dead_letters,
    error::Error,
    progress::{self, Progress},
    replays,
};
use crate::{
    Bus,
    store::{self, Unassigned},
};

/// Replays a second when the request sets no rate.
const DEFAULT_RATE: u32 = 10;

/// The most dead letters in one run.
const MAX_ITEMS: i64 = 10_000;

/// The most runs that are advanced at a time, as `events.running_replays` limits them.
const MAX_RUNS_PER_TICK: usize = 100;

pub(super) async fn start(
    tx: &mut PgConnection,
    operator: &Operator,
    request: &ops::ReplayDeadLetterGroupRequest,
) -> Result<ops::ReplayRun, Error> {
    let id = Uuid::now_v7();
    let rate = if request.rate == 0 {
        DEFAULT_RATE
    } else {
        request.rate.min(1_000)
    };
    let mode = match request.mode() {
        ops::ReplayMode::Canary => "canary",
        ops::ReplayMode::Straight | ops::ReplayMode::Unspecified => "straight",
    };
    sqlx::query!(
        "insert into events.replay_run (id, facility, fingerprint, mode, rate, state, actor, total)
         values ($1, $2, $3, $4, $5, 'running', $6, 0)",
        id,
        operator.facility,
        request.fingerprint,
        mode,
        rate.cast_signed(),
        operator.subject,
    )
    .execute(&mut *tx)
    .await?;
    let total = insert_items(tx, id, operator, &request.fingerprint).await?;
    if total == 0 {
        return Err(Error::EmptyGroup);
    }
    find(tx, id).await
}

/// Adds the oldest open dead letters to the run, and returns their number.
async fn insert_items(
    tx: &mut PgConnection,
    run: Uuid,
    operator: &Operator,
    fingerprint: &str,
) -> Result<i32, sqlx::Error> {
    let facilities = operator.facilities();
    // Makes the planner choose the plan that reads the fewest rows, however many there are.
    sqlx::query!(
        "select set_config('random_page_cost', '0', true) as random, set_config('seq_page_cost', '0', true) as seq"
    )
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query_scalar!(
        r#"with chosen as (
               select letter.id, letter.facility
               from unnest($2::text[]) f (facility) cross join lateral (
                   (select d.id, d.facility from events.dead_letter d
                    where $3 <> '' and d.facility = f.facility and d.fingerprint = $3 and d.state = 'open'
                    order by d.id limit $4)
                   union all
                   (select d.id, d.facility from events.dead_letter d
                    where $3 = '' and d.facility = f.facility and d.state = 'open'
                    order by d.id limit $4)
               ) letter
               order by letter.id
               limit $4
           ), item as (
               insert into events.replay_item (run_id, dead_letter_id, facility, position)
               select $1, id, facility, row_number() over (order by id) from chosen
               returning 1
           )
           update events.replay_run set total = (select count(*) from item) where id = $1
           returning total"#,
        run,
        &facilities,
        fingerprint,
        MAX_ITEMS,
    )
    .fetch_one(tx)
    .await
}

pub(super) async fn find(tx: &mut PgConnection, id: Uuid) -> Result<ops::ReplayRun, Error> {
    let progress = progress::find(tx, id).await?;
    let progress = progress.ok_or_else(|| Error::NotFound {
        kind: "replay run",
        id: id.to_string(),
    })?;
    let unrecorded = progress::count_unrecorded(tx, id, &progress).await?;
    let count = |counted: i64, unrecorded: i64| u32::try_from(counted + unrecorded).unwrap_or(u32::MAX);
    let remaining = i64::from(progress.total - progress.sent);
    let running = progress.state == "running" && remaining > 0;
    let state = match progress.state.as_str() {
        "running" => ops::ReplayRunState::Running,
        "finished" => ops::ReplayRunState::Finished,
        _ => ops::ReplayRunState::Stopped,
    };
    let mode = if progress.mode == "canary" {
        ops::ReplayMode::Canary
    } else {
        ops::ReplayMode::Straight
    };
    Ok(ops::ReplayRun {
        id: id.to_string(),
        fingerprint: progress.fingerprint,
        state: state.into(),
        mode: mode.into(),
        rate: progress.rate.unsigned_abs(),
        total_count: progress.total.unsigned_abs(),
        sent_count: progress.sent.unsigned_abs(),
        resolved_count: count(progress.resolved, unrecorded.0),
        failed_count: count(progress.failed, unrecorded.1),
        actor: progress.actor,
        create_time: Some(dead_letters::timestamp(progress.created_at)),
        remaining_duration: running.then(|| prost_types::Duration {
            seconds: (remaining + i64::from(progress.rate) - 1) / i64::from(progress.rate),
            nanos: 0,
        }),
    })
}

/// The run after which the next turn starts. Each process advances the runs in turn, so that 100 runs which do not
/// end do not block the others.
#[derive(Default)]
pub(crate) struct Cursor(Mutex<Uuid>);

impl Cursor {
    /// The run after which this turn starts.
    fn get(&self) -> Uuid {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next turn starts after these runs, or from the beginning.
    fn advance(&self, runs: &[Uuid]) {
        let next = runs.last().filter(|_| runs.len() == MAX_RUNS_PER_TICK);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = next.copied().unwrap_or_default();
    }
}

/// Advances the next runs. One process at a time advances a run.
pub(crate) async fn advance_all(bus: &Bus, pool: &PgPool, cursor: &Cursor) -> Result<(), sqlx::Error> {
    let running = sqlx::query!(
        r#"select id as "id!", facility as "facility!" from events.running_replays($1)"#,
        cursor.get(),
    )
    .fetch_all(pool)
    .await?;
    cursor.advance(&running.iter().map(|run| run.id).collect::<Vec<_>>());
    let mut failed = None;
    for run in running {
        // A run that fails to advance does not block the others.
        if let Err(error) = advance_run(bus, pool, run.id, &run.facility).await {
            tracing::debug!(replay_run.id = %run.id, error = %error, "a replay run was not advanced");
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn advance_run(bus: &Bus, pool: &PgPool, id: Uuid, facility: &str) -> Result<(), sqlx::Error> {
    // A run of an administrator may include dead letters without a facility.
    let mut tx = store::begin_with_visibility(pool, facility, Unassigned::Visible).await?;
    let locked = sqlx::query_scalar!(
        "select true from events.replay_run where id = $1 and state = 'running' for update skip locked",
        id,
    );
    if locked.fetch_optional(&mut *tx).await?.is_some() {
        advance(&mut tx, bus.service(), id).await?;
        tx.commit().await?;
        bus.outbox().wake();
    }
    Ok(())
}

async fn advance(tx: &mut PgConnection, service: &str, run: Uuid) -> Result<(), sqlx::Error> {
    let Some(mut progress) = progress::find(tx, run).await? else {
        return Ok(());
    };
    progress::record_outcomes(tx, run, &mut progress).await?;
    let state = if progress.mode == "canary" && progress.same_kind > 0 {
        "stopped"
    } else if !progress.unsent && progress.settled_to >= progress.sent {
        "finished"
    } else {
        return send(tx, service, run, &progress).await;
    };
    sqlx::query!(
        "update events.replay_run set state = $2 where id = $1",
        run,
        state
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn send(
    tx: &mut PgConnection,
    service: &str,
    run: Uuid,
    progress: &Progress,
) -> Result<(), sqlx::Error> {
    let limit = progress.send_limit();
    if limit == 0 || !progress.unsent {
        return Ok(());
    }
    let items = sqlx::query!(
        "with next as materialized (
             select i.position, d.id, d.state
             from (select position, dead_letter_id from events.replay_item
                   where run_id = $1 and position > $2 and sent_at is null order by position limit $3) i
             cross join lateral (select id, state from events.dead_letter d where d.id = i.dead_letter_id limit 1) d
         ), run as (
             update events.replay_run set sent_to = coalesce((select max(position) from next), sent_to) where id = $1
         )
         update events.replay_item i set sent_at = now() from next
         where i.run_id = $1 and i.position > $2 and i.position <= (select max(position) from next)
           and i.position = next.position
         returning i.dead_letter_id, next.state",
        run,
        progress.sent,
        limit,
    )
    .fetch_all(&mut *tx)
    .await?;
    for item in items {
        // Another operator may have replayed or discarded it meanwhile.
        if item.state == "open" {
            replays::send(tx, service, item.dead_letter_id).await?;
        }
    }
    Ok(())
}

//! Replays of whole groups: sent in the background, at a rate, and stepwise where the operator is careful.

use std::time::Duration;

use proto::ops::v1 as ops;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{Caller, actions, failure::Failure, letters};
use crate::{
    Bus,
    store::{self, Unassigned},
};

/// Replays a second when the operator says nothing.
const DEFAULT_RATE: u32 = 10;

/// How often runs are advanced.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// Where a run stands, counted from its dead letters.
struct Progress {
    fingerprint: String,
    mode: String,
    rate: i32,
    state: String,
    actor: String,
    total: i32,
    created_at: time::OffsetDateTime,
    age_seconds: f64,
    sent: i64,
    resolved: i64,
    failed: i64,
    /// Failed again in the way that the group had failed; in a run of all kinds, in any way.
    same_kind: i64,
}

pub(super) async fn start(
    tx: &mut PgConnection,
    caller: &Caller,
    request: &ops::ReplayDeadLetterGroupRequest,
) -> Result<ops::ReplayRun, Failure> {
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
         select $1, $2, $3, $4, $5, 'running', $6, count(*)::int
         from events.dead_letter where ($3 = '' or fingerprint = $3) and state = 'open'",
        id,
        caller.facility,
        request.fingerprint,
        mode,
        rate.cast_signed(),
        caller.subject,
    )
    .execute(&mut *tx)
    .await?;
    let items = sqlx::query!(
        "insert into events.replay_item (run_id, dead_letter_id, facility, position)
         select $1, id, facility, row_number() over (order by id)
         from events.dead_letter where ($2 = '' or fingerprint = $2) and state = 'open'",
        id,
        request.fingerprint,
    )
    .execute(&mut *tx)
    .await?;
    if items.rows_affected() == 0 {
        return Err(Failure::EmptyGroup);
    }
    find(tx, id).await
}

pub(super) async fn find(tx: &mut PgConnection, id: Uuid) -> Result<ops::ReplayRun, Failure> {
    let progress = progress(tx, id).await?;
    let progress = progress.ok_or_else(|| Failure::NotFound {
        kind: "replay run",
        id: id.to_string(),
    })?;
    let count = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    let remaining = i64::from(progress.total) - progress.sent;
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
        sent_count: count(progress.sent),
        resolved_count: count(progress.resolved),
        failed_count: count(progress.failed),
        actor: progress.actor,
        create_time: Some(letters::timestamp(progress.created_at)),
        remaining_duration: running.then(|| prost_types::Duration {
            seconds: (remaining + i64::from(progress.rate) - 1) / i64::from(progress.rate),
            nanos: 0,
        }),
    })
}

/// Advances every run that is due. One process at a time advances a run.
pub(crate) async fn advance_all(bus: &Bus, pool: &PgPool) -> Result<(), sqlx::Error> {
    let running =
        sqlx::query!(r#"select id as "id!", facility as "facility!" from events.running_replays()"#)
            .fetch_all(pool)
            .await?;
    let mut failed = None;
    for run in running {
        // One that cannot go on now does not hold up the others.
        if let Err(error) = advance_one(bus, pool, run.id, &run.facility).await {
            tracing::debug!(replay_run.id = %run.id, error = %error, "a replay run was not advanced");
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn advance_one(bus: &Bus, pool: &PgPool, id: Uuid, facility: &str) -> Result<(), sqlx::Error> {
    // What an administrator sends again may be nobody's.
    let mut tx = store::begin_seeing(pool, facility, Unassigned::Visible).await?;
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
    let Some(progress) = progress(tx, run).await? else {
        return Ok(());
    };
    let settled = progress.resolved + progress.failed;
    let state = if progress.mode == "canary" && progress.same_kind > 0 {
        "stopped"
    } else if settled >= i64::from(progress.total) {
        "finished"
    } else {
        return send(tx, service, run, progress.allowance()).await;
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

impl Progress {
    /// How many may be sent now: by the rate since the start, no burst after a wait, and by the canary's step.
    fn allowance(&self) -> i64 {
        let rate = f64::from(self.rate);
        let by_rate = (rate * self.age_seconds).ceil() as i64 - self.sent;
        let by_tick = (rate * TICK.as_secs_f64()).ceil() as i64;
        let step = match self.resolved + self.failed {
            _ if self.mode != "canary" => i64::MAX,
            0 => 1,
            1..=10 => 11,
            _ => i64::MAX,
        };
        by_rate.min(by_tick).min(step - self.sent).max(0)
    }
}

async fn send(tx: &mut PgConnection, service: &str, run: Uuid, at_most: i64) -> Result<(), sqlx::Error> {
    let items = sqlx::query!(
        "with next as (
             select position from events.replay_item where run_id = $1 and sent_at is null order by position limit $2
         )
         update events.replay_item i set sent_at = now() from next, events.dead_letter d
         where i.run_id = $1 and i.position = next.position and d.id = i.dead_letter_id
         returning i.dead_letter_id, d.state",
        run,
        at_most,
    )
    .fetch_all(&mut *tx)
    .await?;
    for item in items {
        // Somebody may have replayed or discarded it meanwhile.
        if item.state == "open" {
            actions::send(tx, service, item.dead_letter_id).await?;
        }
    }
    Ok(())
}

async fn progress(tx: &mut PgConnection, run: Uuid) -> Result<Option<Progress>, sqlx::Error> {
    sqlx::query_as!(
        Progress,
        r#"select r.fingerprint, r.mode, r.rate, r.state, r.actor, r.created_at, count(*)::int as "total!",
               extract(epoch from now() - r.created_at)::float8 as "age_seconds!",
               count(*) filter (where i.sent_at is not null) as "sent!",
               count(*) filter (where i.sent_at is not null and d.state in ('resolved', 'discarded')) as "resolved!",
               count(*) filter (where i.sent_at is not null and d.state = 'open') as "failed!",
               count(*) filter (where i.sent_at is not null and d.state = 'open'
                                and r.fingerprint in ('', d.fingerprint))
                   as "same_kind!"
           from events.replay_run r
           join events.replay_item i on i.run_id = r.id
           join events.dead_letter d on d.id = i.dead_letter_id
           where r.id = $1
           group by r.id"#,
        run,
    )
    .fetch_optional(tx)
    .await
}

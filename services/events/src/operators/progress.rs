//! The progress of a group replay: what was sent, and the outcomes known so far.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

/// How often runs are advanced.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// The most dead letters of a run whose outcomes are checked at a time.
const MAX_CHECKED: i32 = 500;

/// The progress of a run.
pub(super) struct Progress {
    pub(super) fingerprint: String,
    pub(super) mode: String,
    pub(super) rate: i32,
    pub(super) state: String,
    pub(super) actor: String,
    pub(super) total: i32,
    pub(super) created_at: time::OffsetDateTime,
    pub(super) age_seconds: f64,
    /// The items up to this position were sent.
    pub(super) sent: i32,
    /// Whether there are more.
    pub(super) unsent: bool,
    pub(super) resolved: i64,
    pub(super) failed: i64,
    /// Failed again with the group's fingerprint; in a run of all kinds, with any.
    pub(super) same_kind: i64,
    pub(super) settled_to: i32,
    pub(super) looked_to: i32,
}

impl Progress {
    /// How many may be sent now: bounded by the rate since the start, without a burst after a wait, and by the
    /// canary's step.
    pub(super) fn send_limit(&self) -> i64 {
        let rate = f64::from(self.rate);
        let by_rate = (rate * self.age_seconds).ceil() as i64 - i64::from(self.sent);
        let by_tick = (rate * TICK.as_secs_f64()).ceil() as i64;
        let step = match self.resolved + self.failed {
            _ if self.mode != "canary" => i64::MAX,
            0 => 1,
            1..=10 => 11,
            _ => i64::MAX,
        };
        by_rate.min(by_tick).min(step - i64::from(self.sent)).max(0)
    }
}

/// Records the outcomes of the next items that were sent. Only the first outcome of each counts.
pub(super) async fn record_outcomes(
    tx: &mut PgConnection,
    run: Uuid,
    progress: &mut Progress,
) -> Result<(), sqlx::Error> {
    let (from, to) = (
        progress.looked_to,
        progress.sent.min(progress.looked_to + MAX_CHECKED),
    );
    let seen = sqlx::query!(
        r#"with seen as materialized (
               select i.position, i.outcome, d.fingerprint,
                      case when d.state in ('resolved', 'discarded') then 'resolved'
                           when d.state = 'open' then 'failed' end as now
               from events.replay_item i cross join lateral (
                   select state, fingerprint from events.dead_letter d where d.id = i.dead_letter_id limit 1) d
               where i.run_id = $1 and i.position > $2 and i.position <= $3 and i.sent_at is not null
           ), settled as (
               update events.replay_item i set outcome = seen.now from seen
               where i.run_id = $1 and i.position > $2 and i.position <= $3 and i.position = seen.position
                 and seen.outcome is null and seen.now is not null
               returning seen.now, seen.fingerprint
           )
           select (select count(*) from settled where now = 'resolved') as "resolved!",
                  (select count(*) from settled where now = 'failed') as "failed!",
                  (select count(*) from settled where now = 'failed' and $4 in ('', fingerprint)) as "same_kind!",
                  (select min(position) from seen where outcome is null and now is null) as waiting"#,
        run,
        from,
        to,
        progress.fingerprint,
    )
    .fetch_one(&mut *tx)
    .await?;
    progress.resolved += seen.resolved;
    progress.failed += seen.failed;
    progress.same_kind += seen.same_kind;
    let before = (progress.settled_to, progress.looked_to);
    if from == progress.settled_to {
        progress.settled_to = seen.waiting.map_or(to, |position| position - 1);
    }
    progress.looked_to = if to < progress.sent {
        to
    } else {
        progress.settled_to
    };
    if before == (progress.settled_to, progress.looked_to) && seen.resolved + seen.failed == 0 {
        return Ok(());
    }
    sqlx::query!(
        "update events.replay_run
         set settled_to = $2, looked_to = $3, resolved = resolved + $4, failed = failed + $5,
             same_kind = same_kind + $6
         where id = $1",
        run,
        progress.settled_to,
        progress.looked_to,
        to_i32(seen.resolved),
        to_i32(seen.failed),
        to_i32(seen.same_kind),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Cannot overflow: a part of a run is no larger than the run.
fn to_i32(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(super) async fn find(tx: &mut PgConnection, run: Uuid) -> Result<Option<Progress>, sqlx::Error> {
    sqlx::query_as!(
        Progress,
        r#"select r.fingerprint, r.mode, r.rate, r.state, r.actor, r.created_at, r.total,
               extract(epoch from now() - r.created_at)::float8 as "age_seconds!",
               coalesce(next.position - 1, r.total) as "sent!", next.position is not null as "unsent!",
               r.resolved::bigint as "resolved!", r.failed::bigint as "failed!", r.same_kind::bigint as "same_kind!",
               r.settled_to, r.looked_to
           from events.replay_run r left join lateral (
               select i.position from events.replay_item i
               where i.run_id = r.id and i.position > r.sent_to and i.sent_at is null
               order by i.position limit 1
           ) next on true
           where r.id = $1"#,
        run,
    )
    .fetch_optional(tx)
    .await
}

/// Outcomes that exist and are not recorded yet: how many items were resolved, and how many failed again.
pub(super) async fn count_unrecorded(
    tx: &mut PgConnection,
    run: Uuid,
    progress: &Progress,
) -> Result<(i64, i64), sqlx::Error> {
    let unrecorded = sqlx::query!(
        r#"select count(*) filter (where d.state in ('resolved', 'discarded')) as "resolved!",
                  count(*) filter (where d.state = 'open') as "failed!"
           from events.replay_item i cross join lateral (
               select state from events.dead_letter d where d.id = i.dead_letter_id limit 1) d
           where i.run_id = $1 and i.position > $2 and i.position <= $3
             and i.sent_at is not null and i.outcome is null"#,
        run,
        progress.settled_to,
        progress.sent,
    )
    .fetch_one(tx)
    .await?;
    Ok((unrecorded.resolved, unrecorded.failed))
}

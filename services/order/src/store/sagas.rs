//! Sagas, their leases and the steps that have ended.

use std::time::Duration;

use chassis::Facility;
use sqlx::{PgConnection, postgres::types::PgInterval};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{corrupt, saga_steps::Columns};
use crate::saga::{Kind, Saga, State, Step};

/// Whether the process that writes a saga goes on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It does, for as long as this without another word.
    Kept(Uuid, Duration),
    /// Anybody may, once its time has come.
    Released,
}

/// A saga that this process has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub id: Uuid,
    pub facility: String,
    /// Of the lease that was taken.
    pub epoch: i64,
}

/// The sagas of all facilities that are in one state and have not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    pub state: String,
    pub sagas: i64,
    /// Those that should have ended by now.
    pub overdue: i64,
    /// The age of the oldest, in seconds.
    pub oldest_seconds: f64,
}

/// How a list of sagas is narrowed down.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<State>,
    pub order_id: Option<Uuid>,
}

/// A row of `orders.saga`.
struct Row {
    id: Uuid,
    facility: String,
    kind: String,
    order_id: Uuid,
    refund_id: Option<Uuid>,
    plan: Vec<String>,
    position: i32,
    backward: bool,
    state: String,
    reason: String,
    attempts: i32,
    version: i64,
    lease_epoch: i64,
    nudges: i64,
    wake_at: Option<OffsetDateTime>,
    deadline_at: OffsetDateTime,
    begun_at: OffsetDateTime,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

macro_rules! select {
    ($rest:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            "select id, facility, kind, order_id, refund_id, plan, position, backward, state, reason, attempts, version,
                 lease_epoch, nudges, wake_at, deadline_at, begun_at, created_at, updated_at from orders.saga " + $rest
            $(, $argument)*
        )
    };
}

/// Writes a new saga.
pub async fn insert(conn: &mut PgConnection, saga: &Saga, lease: Lease) -> Result<(), sqlx::Error> {
    let plan: Vec<String> = saga.plan.iter().map(|step| step.name().to_owned()).collect();
    let (owner, lease) = columns(lease)?;
    sqlx::query!(
        "insert into orders.saga (id, facility, kind, order_id, refund_id, plan, position, state, version,
             lease_owner, lease_until, lease_epoch, wake_at, deadline_at, begun_at, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, now() + $10, $11,
             case when $9::uuid is null then now() end, $12, $13, $13, $13)",
        saga.id,
        saga.facility.as_str(),
        saga.kind.name(),
        saga.order_id,
        saga.refund_id,
        &plan,
        saga.state.name(),
        saga.version,
        owner,
        lease,
        saga.epoch,
        saga.deadline_at,
        saga.created_at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes a saga and the steps that have ended since it was last written; false when another process owns it by now.
/// `epoch` is the one it was read with.
pub async fn save(
    conn: &mut PgConnection,
    saga: &Saga,
    epoch: i64,
    lease: Lease,
) -> Result<bool, sqlx::Error> {
    let (owner, lease) = columns(lease)?;
    let ended = Columns::from(saga.ended.as_slice());
    let position = i32::try_from(saga.position).map_err(|_| corrupt("position"))?;
    let saved = sqlx::query_scalar!(
        r#"with saved as (
             update orders.saga set position = $3, backward = $4, state = $5, reason = $6, attempts = $7, version = $8,
                 lease_owner = $9, lease_until = now() + $10, lease_epoch = $11, deadline_at = $13,
                 wake_at = case when nudges > $23 and $9::uuid is null and $12::timestamptz is not null
                     then least($12, now()) else $12 end,
                 begun_at = $14, updated_at = $15
             where id = $1 and lease_epoch = $2
             returning facility
         ), ended as (
             insert into orders.saga_step (saga_id, step, compensation, facility, state, result, attempts, begun_at,
                 ended_at)
             select $1, step, compensation, facility, state, result, attempts, begun_at, ended_at
             from saved, unnest($16::text[], $17::boolean[], $18::text[], $19::text[], $20::integer[],
                 $21::timestamptz[], $22::timestamptz[])
                 as steps (step, compensation, state, result, attempts, begun_at, ended_at)
             on conflict (saga_id, step, compensation) do update set state = excluded.state,
                 result = excluded.result, attempts = excluded.attempts, ended_at = excluded.ended_at
         )
         select count(*) as "count!" from saved"#,
        saga.id,
        epoch,
        position,
        saga.backward,
        saga.state.name(),
        saga.reason,
        count(saga.attempts),
        saga.version,
        owner,
        lease,
        saga.epoch,
        saga.wake_at,
        saga.deadline_at,
        saga.begun_at,
        saga.updated_at,
        &ended.steps as &[&str],
        &ended.compensations,
        &ended.endings as &[&str],
        &ended.results as &[&str],
        &ended.attempts,
        &ended.begun_at,
        &ended.ended_at,
        saga.nudges
    )
    .fetch_one(conn)
    .await?;
    Ok(saved == 1)
}

pub(super) fn count(attempts: u32) -> i32 {
    i32::try_from(attempts).unwrap_or(i32::MAX)
}

/// Keeps the lease; false when another process has taken the saga over.
pub async fn renew(conn: &mut PgConnection, saga: &Saga, lease: Duration) -> Result<bool, sqlx::Error> {
    let lease = interval(lease)?;
    let renewed = sqlx::query!(
        "update orders.saga set lease_until = now() + $3 where id = $1 and lease_epoch = $2",
        saga.id,
        saga.epoch,
        lease
    );
    Ok(renewed.execute(conn).await?.rows_affected() == 1)
}

/// Ends a lease before its time, if it is still held.
pub async fn release(conn: &mut PgConnection, id: Uuid, epoch: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update orders.saga set lease_until = now()
         where id = $1 and lease_epoch = $2 and lease_until > now()",
        id,
        epoch
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks a saga as stuck whose row this build cannot read, given by its id and epoch; it is due again after `pause`.
pub async fn set_aside(
    conn: &mut PgConnection,
    (id, epoch): (Uuid, i64),
    reason: &str,
    pause: time::Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update orders.saga
         set state = 'stuck', reason = $3, wake_at = now() + $4 * interval '1 second', lease_owner = null,
             lease_until = null
         where id = $1 and lease_epoch = $2",
        id,
        epoch,
        reason,
        pause.as_seconds_f64(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Reads a saga.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<Saga>, sqlx::Error> {
    select!("where id = $1", id)
        .fetch_optional(conn)
        .await?
        .map(Saga::try_from)
        .transpose()
}

/// Reads a saga and keeps others from changing it until the transaction ends.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Saga>, sqlx::Error> {
    select!("where id = $1 for update", id)
        .fetch_optional(conn)
        .await?
        .map(Saga::try_from)
        .transpose()
}

/// Whether a process holds a saga's lease now.
pub async fn is_leased(conn: &mut PgConnection, id: Uuid) -> Result<bool, sqlx::Error> {
    let leased = sqlx::query_scalar!(
        r#"select lease_until > now() as "leased?" from orders.saga where id = $1"#,
        id
    );
    Ok(leased.fetch_optional(conn).await?.flatten().unwrap_or(false))
}

/// Makes a waiting saga due at once. One that is driven goes on as soon as its driver would wait; one that has ended is
/// left alone.
pub async fn wake(conn: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update orders.saga set nudges = nudges + 1,
             wake_at = case when lease_until is null or lease_until < now() then now() else wake_at end
         where id = $1 and due_at is not null",
        id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The sagas that match, newest first, at most `limit`, after the saga `after`.
pub async fn list(
    conn: &mut PgConnection,
    filter: &Filter,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Saga>, sqlx::Error> {
    let rows = select!(
        "where facility = current_setting('weft.facility', true)
           and ($1::uuid is null or id < $1)
           and ($2::text is null or state = $2)
           and ($3::uuid is null or order_id = $3)
         order by id desc limit $4",
        after,
        filter.state.map(State::name) as Option<&str>,
        filter.order_id,
        limit
    );
    rows.fetch_all(conn)
        .await?
        .into_iter()
        .map(Saga::try_from)
        .collect()
}

/// Claims sagas of all facilities that are due, at most `at_most`. In a transaction of no facility.
pub async fn claim_due(
    conn: &mut PgConnection,
    owner: Uuid,
    lease: Duration,
    at_most: i32,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let lease = interval(lease)?;
    sqlx::query_as!(
        Claimed,
        r#"select id as "id!", facility as "facility!", epoch as "epoch!" from orders.claim_due_sagas($1, $2, $3)"#,
        owner,
        lease,
        at_most
    )
    .fetch_all(conn)
    .await
}

/// Counts what alarms are made of. In a transaction of no facility.
pub async fn open(conn: &mut PgConnection) -> Result<Vec<Open>, sqlx::Error> {
    sqlx::query_as!(
        Open,
        r#"select state as "state!", sagas as "sagas!", overdue as "overdue!", oldest_seconds as "oldest_seconds!"
           from orders.open_sagas()"#
    )
    .fetch_all(conn)
    .await
}

fn columns(lease: Lease) -> Result<(Option<Uuid>, Option<PgInterval>), sqlx::Error> {
    match lease {
        Lease::Kept(owner, time) => Ok((Some(owner), Some(interval(time)?))),
        Lease::Released => Ok((None, None)),
    }
}

fn interval(time: Duration) -> Result<PgInterval, sqlx::Error> {
    PgInterval::try_from(time).map_err(sqlx::Error::Encode)
}

impl TryFrom<Row> for Saga {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Saga, sqlx::Error> {
        let plan = row
            .plan
            .iter()
            .map(|name| Step::named(name).ok_or_else(|| corrupt("saga step")));
        Ok(Saga {
            id: row.id,
            facility: Facility::new(row.facility).map_err(|_| corrupt("facility"))?,
            kind: Kind::named(&row.kind).ok_or_else(|| corrupt("saga kind"))?,
            order_id: row.order_id,
            refund_id: row.refund_id,
            plan: plan.collect::<Result<_, _>>()?,
            position: usize::try_from(row.position).map_err(|_| corrupt("saga position"))?,
            backward: row.backward,
            state: State::named(&row.state).ok_or_else(|| corrupt("saga state"))?,
            reason: row.reason,
            attempts: u32::try_from(row.attempts).map_err(|_| corrupt("saga attempts"))?,
            version: row.version,
            epoch: row.lease_epoch,
            nudges: row.nudges,
            wake_at: row.wake_at,
            deadline_at: row.deadline_at,
            begun_at: row.begun_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            progress: Vec::new(),
            ended: Vec::new(),
        })
    }
}

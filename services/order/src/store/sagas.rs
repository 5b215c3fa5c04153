//! Sagas, their leases and their finished steps.

use std::time::Duration;

use sqlx::{PgConnection, postgres::types::PgInterval};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Column, attempts, corrupt, saga_row::Row, saga_steps::Columns};
use crate::saga::{Participant, Saga, State};

/// Whether the process that writes a saga keeps its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It does: the owner, and how long the lease lasts without renewal.
    Held(Uuid, Duration),
    /// It does not: any process may lease the saga once it is due.
    Released,
}

/// A saga that this process has leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedSaga {
    pub id: Uuid,
    pub facility: String,
    /// The epoch of the new lease.
    pub epoch: i64,
}

/// Which due sagas to lease, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest {
    pub owner: Uuid,
    pub lease: Duration,
    pub at_most: i32,
    /// The participant that their next step calls.
    pub participant: Participant,
}

/// The open sagas of all facilities in one state.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenSagas {
    pub state: String,
    pub sagas: i64,
    /// Those that should have ended by now.
    pub overdue: i64,
    /// The age of the oldest one in seconds.
    pub oldest_seconds: f64,
}

/// The filter of a list of sagas.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<State>,
    pub order_id: Option<Uuid>,
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

/// Inserts sagas.
pub async fn insert(conn: &mut PgConnection, sagas: &[(&Saga, Lease)]) -> Result<(), sqlx::Error> {
    let column = Column(sagas);
    let plans = column.map(|(saga, _)| {
        let steps: Vec<_> = saga.plan.iter().map(|step| step.name()).collect();
        steps.join(",")
    });
    sqlx::query!(
        "insert into orders.saga (id, facility, kind, order_id, refund_id, plan, position, state, version,
             lease_owner, lease_until, lease_epoch, wake_at, deadline_at, begun_at, created_at, updated_at)
         select id, facility, kind, order_id, refund_id, string_to_array(plan, ','), 0, state, version,
             lease_owner, now() + lease_ms * interval '1 millisecond', epoch,
             case when lease_owner is null then now() end, deadline_at, created_at, created_at, created_at
         from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bigint[],
             $9::uuid[], $10::double precision[], $11::bigint[], $12::timestamptz[], $13::timestamptz[])
             as sagas (id, facility, kind, order_id, refund_id, plan, state, version, lease_owner, lease_ms, epoch,
                 deadline_at, created_at)",
        &column.map(|(saga, _)| saga.id),
        &column.map(|(saga, _)| saga.facility.as_str()) as &[&str],
        &column.map(|(saga, _)| saga.kind.name()) as &[&str],
        &column.map(|(saga, _)| saga.order_id),
        &column.map(|(saga, _)| saga.refund_id) as &[Option<Uuid>],
        &plans,
        &column.map(|(saga, _)| saga.state.name()) as &[&str],
        &column.map(|(saga, _)| saga.version),
        &column.map(|(_, lease)| lease.owner()) as &[Option<Uuid>],
        &column.map(|(_, lease)| lease.ms()) as &[Option<f64>],
        &column.map(|(saga, _)| saga.epoch),
        &column.map(|(saga, _)| saga.deadline_at),
        &column.map(|(saga, _)| saga.created_at),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A saga to be updated.
#[derive(Clone, Copy, Debug)]
pub struct SagaUpdate<'a> {
    pub saga: &'a Saga,
    /// The epoch that it was read with.
    pub epoch: i64,
    pub lease: Lease,
}

impl SagaUpdate<'_> {
    /// A saga that was read with `epoch` and whose lease is released.
    pub fn released(saga: &Saga, epoch: i64) -> SagaUpdate<'_> {
        SagaUpdate {
            saga,
            epoch,
            lease: Lease::Released,
        }
    }
}

/// Updates sagas and inserts the steps that have finished since they were last saved. Returns the ids of those
/// that were updated: the others have been leased by another process.
pub async fn save(conn: &mut PgConnection, updates: &[SagaUpdate<'_>]) -> Result<Vec<Uuid>, sqlx::Error> {
    let positions = updates
        .iter()
        .map(|update| i32::try_from(update.saga.position).map_err(|_| corrupt("position")));
    let positions = positions.collect::<Result<Vec<_>, _>>()?;
    let finished = Columns::from(updates.iter().map(|update| update.saga));
    let column = Column(updates);
    sqlx::query_scalar!(
        r#"with moved as (
             select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::integer[], $5::boolean[], $6::text[],
                 $7::text[], $8::integer[], $9::bigint[], $10::uuid[], $11::double precision[], $12::bigint[],
                 $13::timestamptz[], $14::timestamptz[], $15::timestamptz[], $16::timestamptz[], $17::bigint[])
                 as moved (id, facility, from_epoch, position, backward, state, reason, attempts, version, lease_owner,
                     lease_ms, epoch, wake_at, deadline_at, begun_at, updated_at, nudges)
         ), saved as (
             update orders.saga s set position = moved.position, backward = moved.backward, state = moved.state,
                 reason = moved.reason, attempts = moved.attempts, version = moved.version,
                 lease_owner = moved.lease_owner, lease_until = now() + moved.lease_ms * interval '1 millisecond',
                 lease_epoch = moved.epoch, deadline_at = moved.deadline_at,
                 wake_at = case when s.nudges > moved.nudges and moved.lease_owner is null and moved.wake_at is not null
                     then least(moved.wake_at, now()) else moved.wake_at end,
                 begun_at = moved.begun_at, updated_at = moved.updated_at
             from moved
             where s.id = moved.id and s.facility = moved.facility and s.lease_epoch = moved.from_epoch
             returning s.id, s.facility
         ), ended as (
             insert into orders.saga_step (saga_id, step, compensation, facility, state, result, attempts, begun_at,
                 ended_at)
             select saved.id, step, compensation, saved.facility, state, result, attempts, begun_at, ended_at
             from saved join unnest($18::uuid[], $19::text[], $20::boolean[], $21::text[], $22::text[], $23::integer[],
                 $24::timestamptz[], $25::timestamptz[])
                 as steps (saga_id, step, compensation, state, result, attempts, begun_at, ended_at)
                 on steps.saga_id = saved.id
             on conflict (saga_id, step, compensation) do update set state = excluded.state,
                 result = excluded.result, attempts = excluded.attempts, ended_at = excluded.ended_at
         )
         select id from saved"#,
        &column.map(|update| update.saga.id),
        &column.map(|update| update.saga.facility.as_str()) as &[&str],
        &column.map(|update| update.epoch),
        &positions,
        &column.map(|update| update.saga.backward),
        &column.map(|update| update.saga.state.name()) as &[&str],
        &column.map(|update| update.saga.reason.as_str()) as &[&str],
        &column.map(|update| attempts(update.saga.attempts)),
        &column.map(|update| update.saga.version),
        &column.map(|update| update.lease.owner()) as &[Option<Uuid>],
        &column.map(|update| update.lease.ms()) as &[Option<f64>],
        &column.map(|update| update.saga.epoch),
        &column.map(|update| update.saga.wake_at) as &[Option<OffsetDateTime>],
        &column.map(|update| update.saga.deadline_at),
        &column.map(|update| update.saga.begun_at),
        &column.map(|update| update.saga.updated_at),
        &column.map(|update| update.saga.nudges),
        &finished.sagas,
        &finished.steps as &[&str],
        &finished.compensations,
        &finished.endings as &[&str],
        &finished.results as &[&str],
        &finished.attempts,
        &finished.begun_at,
        &finished.ended_at,
    )
    .fetch_all(conn)
    .await
}

/// Renews the lease; false when another process has leased the saga.
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

/// Ends a lease early if it is still held.
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

/// Marks a saga as stuck whose row this build cannot read, by its id and epoch; it is due again after `pause`.
pub async fn mark_row_stuck(
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

/// Reads a saga and locks it until the transaction ends.
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

/// As [`wake`], for the sagas that are changing these orders.
pub async fn wake_by_orders(conn: &mut PgConnection, orders: &[Uuid]) -> Result<(), sqlx::Error> {
    // Rows are locked in the order of their orders' ids, as everywhere.
    sqlx::query!(
        "with deciding as (
             select s.id from orders.placed_order o join orders.saga s on s.id = o.saga_id
             where o.id = any($1) and o.busy and s.due_at is not null
             order by o.id for update of s
         )
         update orders.saga s set nudges = nudges + 1,
             wake_at = case when lease_until is null or lease_until < now() then now() else wake_at end
         from deciding where s.id = deciding.id",
        orders
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes a waiting saga due at once. A saga that is being driven continues when it would otherwise wait; one that
/// has ended is not changed.
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

/// Lists the sagas that match, newest first, at most `limit`, after the saga `after`.
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

/// Leases due sagas of all facilities. `running` holds the facilities whose sagas this process is driving, and
/// their number for each: facilities with fewer go first. Needs a transaction without a facility.
pub async fn lease_due(
    conn: &mut PgConnection,
    request: &LeaseRequest,
    (facilities, running): &(Vec<String>, Vec<i32>),
) -> Result<Vec<LeasedSaga>, sqlx::Error> {
    sqlx::query_as!(
        LeasedSaga,
        r#"select id as "id!", facility as "facility!", epoch as "epoch!"
           from orders.claim_due_sagas($1, $2, $3, $4, $5, $6)"#,
        request.owner,
        interval(request.lease)?,
        request.at_most,
        request.participant.name(),
        facilities,
        running,
    )
    .fetch_all(conn)
    .await
}

/// Counts the open sagas for the metrics. Needs a transaction without a facility.
pub async fn count_open(conn: &mut PgConnection) -> Result<Vec<OpenSagas>, sqlx::Error> {
    sqlx::query_as!(
        OpenSagas,
        r#"select state as "state!", sagas as "sagas!", overdue as "overdue!", oldest_seconds as "oldest_seconds!"
           from orders.open_sagas()"#
    )
    .fetch_all(conn)
    .await
}

impl Lease {
    fn owner(self) -> Option<Uuid> {
        match self {
            Lease::Held(owner, _) => Some(owner),
            Lease::Released => None,
        }
    }

    fn ms(self) -> Option<f64> {
        match self {
            Lease::Held(_, time) => Some(time.as_secs_f64() * 1_000.0),
            Lease::Released => None,
        }
    }
}

fn interval(time: Duration) -> Result<PgInterval, sqlx::Error> {
    PgInterval::try_from(time).map_err(sqlx::Error::Encode)
}

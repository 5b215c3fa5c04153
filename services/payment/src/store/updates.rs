//! Updates operations, their payments and their refunds.

use std::time::Duration;

use chassis::Facility;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{RefundState, operations::micros, payments::Columns};
use crate::{
    operation::{Operation, State},
    payment::Payment,
};

/// The changes to an operation.
#[derive(Clone, Debug)]
pub struct Update {
    pub id: Uuid,
    pub state: Option<State>,
    pub reference: Option<String>,
    pub refusal: Option<String>,
    /// For an authorization: added to its captured amount, in minor units.
    pub captured: i64,
    /// For an authorization: added to its refunded amount, in minor units.
    pub refunded: i64,
    /// The lease expires after this time; then any process may resume the operation.
    pub lease_expires_in: Option<Duration>,
}

impl Update {
    /// The operation has ended.
    pub fn completed(operation: &Operation) -> Self {
        Self {
            state: Some(operation.state),
            reference: Some(operation.reference.clone()),
            refusal: Some(operation.refusal.clone()),
            ..Self::new(operation.id)
        }
    }

    /// A void has replaced the operation.
    pub fn abandoned(id: Uuid) -> Self {
        Self {
            state: Some(State::Abandoned),
            ..Self::new(id)
        }
    }

    /// Adds to the captured and refunded amounts of an authorization.
    pub fn amounts(authorization: Uuid, captured: i64, refunded: i64) -> Self {
        Self {
            captured,
            refunded,
            ..Self::new(authorization)
        }
    }

    /// The outcome stays open, and any process may resume the operation `after` some time.
    pub fn postponed(id: Uuid, state: State, after: Duration) -> Self {
        Self {
            state: Some(state),
            lease_expires_in: Some(after),
            ..Self::new(id)
        }
    }

    /// Whether the operation is open after the update.
    pub fn leaves_open(&self) -> bool {
        self.lease_expires_in.is_some()
    }

    fn new(id: Uuid) -> Self {
        Self {
            id,
            state: None,
            reference: None,
            refusal: None,
            captured: 0,
            refunded: 0,
            lease_expires_in: None,
        }
    }
}

/// The columns of updates, as arrays for `unnest`.
struct UpdateColumns<'a> {
    facilities: Vec<&'a str>,
    ids: Vec<Uuid>,
    states: Vec<Option<&'a str>>,
    references: Vec<Option<&'a str>>,
    refusals: Vec<Option<&'a str>>,
    captured: Vec<i64>,
    refunded: Vec<i64>,
    lease_expires_in: Vec<Option<i64>>,
}

impl<'a> UpdateColumns<'a> {
    fn new(updates: &[(&'a Facility, &'a Update)]) -> Self {
        let all = || updates.iter().map(|(_, update)| *update);
        Self {
            facilities: updates.iter().map(|(facility, _)| facility.as_str()).collect(),
            ids: all().map(|one| one.id).collect(),
            states: all().map(|one| one.state.map(State::name)).collect(),
            references: all().map(|one| one.reference.as_deref()).collect(),
            refusals: all().map(|one| one.refusal.as_deref()).collect(),
            captured: all().map(|one| one.captured).collect(),
            refunded: all().map(|one| one.refunded).collect(),
            lease_expires_in: all().map(|one| one.lease_expires_in.map(micros)).collect(),
        }
    }
}

/// Updates payments and operations. The payments, and the payments of the operations, must be locked. No operation
/// may occur twice.
pub async fn update(
    conn: &mut PgConnection,
    payments: &[(&Facility, &Payment)],
    updates: &[(&Facility, &Update)],
) -> Result<(), sqlx::Error> {
    let saved = Columns::new(payments);
    let updates = UpdateColumns::new(updates);
    sqlx::query!(
        "with saved as (
             update payment.payment p
             set state = new.state, currency = new.currency, amount = new.amount, authorized = new.authorized,
                 captured = new.captured, refunded = new.refunded, method = new.method,
                 processor_reference = new.processor_reference, decline_reason = new.decline_reason,
                 version = new.version, expires_at = new.expires_at, updated_at = now()
             from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
                 $8::bigint[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::timestamptz[]) as new
                 (facility, id, state, currency, amount, authorized, captured, refunded, method, processor_reference,
                 decline_reason, version, expires_at)
             where p.facility = new.facility and p.id = new.id
         )
         update payment.operation o
         set state = coalesce(new.state, o.state), reference = coalesce(new.reference, o.reference),
             refusal = coalesce(new.refusal, o.refusal), captured = o.captured + new.captured,
             refunded = o.refunded + new.refunded,
             lease_until = coalesce(clock_timestamp() + new.free_in * interval '1 microsecond', o.lease_until),
             updated_at = now()
         from unnest($14::text[], $15::uuid[], $16::text[], $17::text[], $18::text[], $19::bigint[], $20::bigint[],
             $21::bigint[]) as new (facility, id, state, reference, refusal, captured, refunded, free_in)
         where o.facility = new.facility and o.id = new.id",
        &saved.facilities as &[&str],
        &saved.ids,
        &saved.states as &[&str],
        &saved.currencies as &[Option<&str>],
        &saved.amounts,
        &saved.authorized,
        &saved.captured,
        &saved.refunded,
        &saved.methods as &[&str],
        &saved.processor_references as &[&str],
        &saved.decline_reasons as &[&str],
        &saved.versions,
        &saved.expire_times as &[Option<time::OffsetDateTime>],
        &updates.facilities as &[&str],
        &updates.ids,
        &updates.states as &[Option<&str>],
        &updates.references as &[Option<&str>],
        &updates.refusals as &[Option<&str>],
        &updates.captured,
        &updates.refunded,
        &updates.lease_expires_in as &[Option<i64>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sets the final states of refunds.
pub async fn close_refunds(
    conn: &mut PgConnection,
    ended: &[(&Facility, Uuid, RefundState)],
) -> Result<(), sqlx::Error> {
    let facilities: Vec<&str> = ended.iter().map(|(facility, ..)| facility.as_str()).collect();
    let ids: Vec<Uuid> = ended.iter().map(|(_, id, _)| *id).collect();
    let states: Vec<&str> = ended.iter().map(|(.., state)| state.name()).collect();
    sqlx::query!(
        "update payment.refund r set state = ended.state
         from unnest($1::text[], $2::uuid[], $3::text[]) as ended (facility, id, state)
         where r.facility = ended.facility and r.id = ended.id",
        &facilities as &[&str],
        &ids,
        &states as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}

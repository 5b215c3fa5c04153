//! What changes in operations, in their payments and in their refunds.

use std::time::Duration;

use chassis::Facility;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{RefundState, operations::micros, payments::Columns};
use crate::{
    operation::{Operation, State},
    payment::Payment,
};

/// What changes in an operation.
#[derive(Clone, Debug)]
pub struct Update {
    pub id: Uuid,
    pub state: Option<State>,
    pub reference: Option<String>,
    pub refusal: Option<String>,
    /// Of an authorization: so much more was taken of it.
    pub captured: i64,
    /// Of an authorization: so much more was given back of it.
    pub refunded: i64,
    /// Anybody may resume it after this time.
    pub free_in: Option<Duration>,
}

impl Update {
    /// As the operation ended.
    pub fn ended(operation: &Operation) -> Self {
        Self {
            state: Some(operation.state),
            reference: Some(operation.reference.clone()),
            refusal: Some(operation.refusal.clone()),
            ..Self::of(operation.id)
        }
    }

    /// A void has overtaken it.
    pub fn abandoned(id: Uuid) -> Self {
        Self {
            state: Some(State::Abandoned),
            ..Self::of(id)
        }
    }

    /// So much more was taken of an authorization, or given back of it.
    pub fn moved(authorization: Uuid, captured: i64, refunded: i64) -> Self {
        Self {
            captured,
            refunded,
            ..Self::of(authorization)
        }
    }

    /// Its outcome stays open, and anybody may resume it `after` some time.
    pub fn postponed(id: Uuid, state: State, after: Duration) -> Self {
        Self {
            state: Some(state),
            free_in: Some(after),
            ..Self::of(id)
        }
    }

    /// Whether the operation is open after it.
    pub fn leaves_open(&self) -> bool {
        self.free_in.is_some()
    }

    fn of(id: Uuid) -> Self {
        Self {
            id,
            state: None,
            reference: None,
            refusal: None,
            captured: 0,
            refunded: 0,
            free_in: None,
        }
    }
}

/// Updates, column by column.
struct UpdateColumns<'a> {
    facilities: Vec<&'a str>,
    ids: Vec<Uuid>,
    states: Vec<Option<&'a str>>,
    references: Vec<Option<&'a str>>,
    refusals: Vec<Option<&'a str>>,
    captured: Vec<i64>,
    refunded: Vec<i64>,
    free_in: Vec<Option<i64>>,
}

impl<'a> UpdateColumns<'a> {
    fn of(updates: &[(&'a Facility, &'a Update)]) -> Self {
        let all = || updates.iter().map(|(_, update)| *update);
        Self {
            facilities: updates.iter().map(|(facility, _)| facility.as_str()).collect(),
            ids: all().map(|one| one.id).collect(),
            states: all().map(|one| one.state.map(State::name)).collect(),
            references: all().map(|one| one.reference.as_deref()).collect(),
            refusals: all().map(|one| one.refusal.as_deref()).collect(),
            captured: all().map(|one| one.captured).collect(),
            refunded: all().map(|one| one.refunded).collect(),
            free_in: all().map(|one| one.free_in.map(micros)).collect(),
        }
    }
}

/// Writes down what changes in operations whose payments are locked, and what has changed in payments that are locked.
/// No operation may be named twice.
pub async fn update(
    conn: &mut PgConnection,
    payments: &[(&Facility, &Payment)],
    updates: &[(&Facility, &Update)],
) -> Result<(), sqlx::Error> {
    let saved = Columns::of(payments);
    let updates = UpdateColumns::of(updates);
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
        &updates.free_in as &[Option<i64>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes down how refunds ended.
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

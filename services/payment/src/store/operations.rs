//! The operations of the processor and their leases.

use std::time::Duration;

use chassis::{Facility, idempotency::Key};
use money::{Currency, Money};
use sqlx::{PgConnection, postgres::types::PgInterval};
use uuid::Uuid;

use super::{currency, decode_name};
use crate::operation::{Kind, Operation, State};

/// An operation with its lease.
#[derive(Clone, Debug)]
pub struct LeasedOperation {
    pub operation: Operation,
    /// The time until the lease expires; zero if it is not leased.
    pub lease_left: Duration,
}

/// An authorization with a captured amount left to refund, in minor units.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    pub authorization_id: Uuid,
    pub left: i64,
}

/// An operation to insert, with its lease.
#[derive(Clone, Debug)]
pub struct NewOperation {
    pub operation: Operation,
    pub lease: Duration,
    /// The key of the request that begins with it. A second operation with the same key violates
    /// `operation_request`.
    pub key: Option<Key>,
}

/// Inserts operations, open or ended, and a refund for each of the kind REFUND. Their payments must be locked and
/// have no open operation.
pub async fn insert(
    conn: &mut PgConnection,
    opened: &[(&Facility, &NewOperation)],
) -> Result<(), sqlx::Error> {
    let operations: Vec<&Operation> = opened.iter().map(|(_, opened)| &opened.operation).collect();
    let ids = |value: fn(&Operation) -> Uuid| operations.iter().map(|one| value(one)).collect::<Vec<_>>();
    let numbers = |value: fn(&Operation) -> i64| operations.iter().map(|one| value(one)).collect::<Vec<_>>();
    let texts = |value: fn(&Operation) -> &str| operations.iter().map(|one| value(one)).collect::<Vec<_>>();
    let currencies: Vec<_> = operations.iter().map(|one| one.amount.currency()).collect();
    let currencies: Vec<&str> = currencies.iter().map(Currency::code).collect();
    let facilities: Vec<&str> = opened.iter().map(|(facility, _)| facility.as_str()).collect();
    let leases: Vec<i64> = opened.iter().map(|(_, opened)| micros(opened.lease)).collect();
    let keys: Vec<Option<&Key>> = opened.iter().map(|(_, opened)| opened.key.as_ref()).collect();
    let methods: Vec<&str> = keys.iter().map(|key| key.map_or("", Key::method)).collect();
    let hashes: Vec<Option<&[u8]>> = keys.iter().map(|key| key.map(Key::hash)).collect();
    let then_capture: Vec<bool> = operations.iter().map(|one| one.then_capture).collect();
    sqlx::query!(
        "with opened as (
             insert into payment.operation (id, facility, payment_id, kind, state, root_id, target_id, currency, amount,
                 method, merchant_reference, reason, then_capture, request_id, lease_until, remaining, request_method,
                 request_hash, reference, refusal)
             select id, facility, payment_id, kind, state, root_id, target_id, currency, amount, method,
                 merchant_reference, reason, then_capture, request_id,
                 clock_timestamp() + lease * interval '1 microsecond', remaining, request_method, request_hash,
                 reference, refusal
             from unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::text[],
                 $9::bigint[], $10::text[], $11::text[], $12::text[], $13::boolean[], $14::uuid[], $15::bigint[],
                 $16::bigint[], $17::text[], $18::bytea[], $19::text[], $20::text[]) as new (id, facility, payment_id,
                 kind, state, root_id, target_id, currency, amount, method, merchant_reference, reason, then_capture,
                 request_id, lease, remaining, request_method, request_hash, reference, refusal)
             returning id, facility, payment_id, kind, currency, amount, reason
         )
         insert into payment.refund (id, facility, payment_id, currency, amount, reason, state)
         select id, facility, payment_id, currency, amount, reason, 'PENDING' from opened where kind = 'REFUND'",
        &ids(|one| one.id),
        &facilities as &[&str],
        &ids(|one| one.payment_id),
        &texts(|one| one.kind.name()) as &[&str],
        &texts(|one| one.state.name()) as &[&str],
        &ids(|one| one.root_id),
        &ids(|one| one.authorization_id),
        &currencies as &[&str],
        &numbers(|one| one.amount.minor()),
        &texts(|one| &one.method) as &[&str],
        &texts(|one| &one.merchant_reference) as &[&str],
        &texts(|one| &one.reason) as &[&str],
        &then_capture,
        &ids(|one| one.request_id),
        &leases,
        &numbers(|one| one.remaining),
        &methods as &[&str],
        &hashes as &[Option<&[u8]>],
        &texts(|one| &one.reference) as &[&str],
        &texts(|one| &one.refusal) as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds the latest operation of the request that began with `root_id`.
pub async fn find_last(
    conn: &mut PgConnection,
    root_id: Uuid,
) -> Result<Option<LeasedOperation>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, payment_id, kind, state, root_id, target_id, currency, amount, method,
               merchant_reference, reason, then_capture, remaining, reference, refusal, request_id, attempts,
               greatest(extract(epoch from lease_until - clock_timestamp()), 0)::float8 as "leased_seconds!"
           from payment.operation where root_id = $1 order by id desc limit 1"#,
        root_id,
    )
    .fetch_optional(conn)
    .await?;
    row.map(LeasedOperation::try_from).transpose()
}

/// Locks an operation. Lock its payment first.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Operation>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, payment_id, kind, state, root_id, target_id, currency, amount, method,
               merchant_reference, reason, then_capture, remaining, reference, refusal, request_id, attempts, 0::float8 as "leased_seconds!"
           from payment.operation where id = $1 for update"#,
        id,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row
        .map(LeasedOperation::try_from)
        .transpose()?
        .map(|leased| leased.operation))
}

/// Lists the charges of a locked payment with an amount left to refund, the largest amount first.
pub async fn list_charges(
    conn: &mut PgConnection,
    payment_id: Uuid,
    at_most: i64,
) -> Result<Vec<Charge>, sqlx::Error> {
    sqlx::query_as!(
        Charge,
        r#"select id as authorization_id, captured - refunded as "left!" from payment.operation
           where payment_id = $1 and kind = 'AUTHORIZE' and captured > refunded
           order by captured - refunded desc, id limit $2"#,
        payment_id,
        at_most,
    )
    .fetch_all(conn)
    .await
}

/// Acquires the lease of an open operation; false if another process holds it.
pub async fn acquire_lease(conn: &mut PgConnection, id: Uuid, lease: Duration) -> Result<bool, sqlx::Error> {
    let updated = sqlx::query!(
        "update payment.operation set lease_until = clock_timestamp() + $2, attempts = attempts + 1
         where id = $1 and state in ('RUNNING', 'UNKNOWN') and lease_until < clock_timestamp()",
        id,
        interval(lease)?,
    )
    .execute(conn)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// Acquires the leases of operations of all facilities whose lease has expired. `running` has the facilities whose
/// operations this process works on, with the number of each: facilities with fewer come first.
pub async fn acquire_due_leases(
    conn: &mut PgConnection,
    lease: Duration,
    at_most: i32,
    (facilities, running): &(Vec<String>, Vec<i32>),
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select operation_id as "id!", operation_facility as "facility!"
           from payment.claim_due_operations($1, $2, $3, $4)"#,
        interval(lease)?,
        at_most,
        facilities,
        running,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.facility)).collect())
}

/// Ends the lease of an operation that was resumed `attempts` times, unless it has been resumed again since.
pub async fn release_lease(conn: &mut PgConnection, id: Uuid, attempts: u32) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payment.operation set lease_until = clock_timestamp()
         where id = $1 and attempts = $2 and state in ('RUNNING', 'UNKNOWN') and lease_until > clock_timestamp()",
        id,
        i32::try_from(attempts).unwrap_or(i32::MAX),
    )
    .execute(conn)
    .await?;
    Ok(())
}

struct Row {
    id: Uuid,
    payment_id: Uuid,
    kind: String,
    state: String,
    root_id: Uuid,
    target_id: Option<Uuid>,
    currency: String,
    amount: i64,
    method: String,
    merchant_reference: String,
    reason: String,
    then_capture: bool,
    remaining: i64,
    reference: String,
    refusal: String,
    request_id: Uuid,
    attempts: i32,
    leased_seconds: f64,
}

impl TryFrom<Row> for LeasedOperation {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let operation = Operation {
            id: row.id,
            payment_id: row.payment_id,
            kind: decode_name("kind of operation", &row.kind, Kind::from_name(&row.kind))?,
            state: decode_name("state of an operation", &row.state, State::from_name(&row.state))?,
            root_id: row.root_id,
            authorization_id: row.target_id.unwrap_or(row.id),
            amount: Money::new(row.amount, currency(&row.currency)?),
            method: row.method,
            merchant_reference: row.merchant_reference,
            reason: row.reason,
            then_capture: row.then_capture,
            remaining: row.remaining,
            reference: row.reference,
            refusal: row.refusal,
            request_id: row.request_id,
            attempts: u32::try_from(row.attempts).unwrap_or(0),
        };
        Ok(Self {
            operation,
            lease_left: Duration::from_secs_f64(row.leased_seconds),
        })
    }
}

/// The duration in whole microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn interval(duration: Duration) -> Result<PgInterval, sqlx::Error> {
    let microseconds =
        i64::try_from(duration.as_micros()).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(PgInterval {
        months: 0,
        days: 0,
        microseconds,
    })
}

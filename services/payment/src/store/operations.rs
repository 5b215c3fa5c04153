//! What the processor is asked for.

use std::time::Duration;

use chassis::idempotency::Key;
use money::Money;
use sqlx::{PgConnection, postgres::types::PgInterval};
use uuid::Uuid;

use super::{RefundState, currency, known};
use crate::operation::{Kind, Operation, State};

/// An operation and how long somebody has it for themselves.
#[derive(Clone, Debug)]
pub struct Leased {
    pub operation: Operation,
    /// Zero when nobody works on it.
    pub for_another: Duration,
}

/// An authorization with something left to refund.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    pub authorization_id: Uuid,
    pub left: i64,
}

/// Writes an operation, leased to the caller for `lease`. The payment must be locked and have none open. `key` is that
/// of the request that begins with it; a second operation of the same request breaks `operation_request`.
pub async fn insert(
    conn: &mut PgConnection,
    facility: &str,
    operation: &Operation,
    lease: Duration,
    key: Option<&Key>,
) -> Result<(), sqlx::Error> {
    let currency = operation.amount.currency();
    sqlx::query!(
        "insert into payment.operation (id, facility, payment_id, kind, state, root_id, target_id, currency, amount,
             method, merchant_reference, reason, then_capture, request_id, lease_until, remaining, request_method,
             request_hash)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, clock_timestamp() + $15, $16, $17, $18)",

        operation.id,
        facility,
        operation.payment_id,
        operation.kind.name(),
        operation.state.name(),
        operation.root_id,
        operation.authorization_id,
        currency.code(),
        operation.amount.minor(),
        operation.method,
        operation.merchant_reference,
        operation.reason,
        operation.then_capture,
        operation.request_id,
        interval(lease)?,
        operation.remaining,
        key.map_or("", Key::method),
        key.map(Key::hash),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What a request has begun, and the fingerprint of the request; however long ago.
pub async fn made_by(
    conn: &mut PgConnection,
    facility: &str,
    key: &Key,
) -> Result<Option<(Uuid, Vec<u8>)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select id, request_hash as "request_hash!" from payment.operation
           where facility = $1 and request_method = $2 and request_id = $3 and request_method <> ''"#,
        facility,
        key.method(),
        key.request_id(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.id, row.request_hash)))
}

/// The latest operation of those that the request of `root_id` has brought about.
pub async fn last_of(conn: &mut PgConnection, root_id: Uuid) -> Result<Option<Leased>, sqlx::Error> {
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
    row.map(Leased::try_from).transpose()
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
        .map(Leased::try_from)
        .transpose()?
        .map(|leased| leased.operation))
}

/// The operation of a locked payment that the processor has not answered finally.
pub async fn open_of(conn: &mut PgConnection, payment_id: Uuid) -> Result<Option<Operation>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, payment_id, kind, state, root_id, target_id, currency, amount, method,
               merchant_reference, reason, then_capture, remaining, reference, refusal, request_id, attempts, 0::float8 as "leased_seconds!"
           from payment.operation where payment_id = $1 and state in ('RUNNING', 'UNKNOWN')"#,
        payment_id,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row
        .map(Leased::try_from)
        .transpose()?
        .map(|leased| leased.operation))
}

/// The authorization that an AUTHORIZED payment stands on.
pub async fn authorization_of(
    conn: &mut PgConnection,
    payment_id: Uuid,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from payment.operation
         where payment_id = $1 and kind = 'AUTHORIZE' and state = 'SUCCEEDED' order by id desc limit 1",
        payment_id,
    )
    .fetch_optional(conn)
    .await
}

/// The charge of a payment with the most left to refund.
pub async fn charge_of(conn: &mut PgConnection, payment_id: Uuid) -> Result<Option<Charge>, sqlx::Error> {
    sqlx::query_as!(
        Charge,
        r#"select id as authorization_id, captured - refunded as "left!" from payment.operation
           where payment_id = $1 and kind = 'AUTHORIZE' and captured > refunded
           order by captured - refunded desc, id limit 1"#,
        payment_id,
    )
    .fetch_optional(conn)
    .await
}

/// Takes over an operation that nobody works on; false when somebody was quicker.
pub async fn take_over(conn: &mut PgConnection, id: Uuid, lease: Duration) -> Result<bool, sqlx::Error> {
    let taken = sqlx::query!(
        "update payment.operation set lease_until = clock_timestamp() + $2, attempts = attempts + 1
         where id = $1 and state in ('RUNNING', 'UNKNOWN') and lease_until < clock_timestamp()",
        id,
        interval(lease)?,
    )
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Takes over what nobody works on, of all facilities.
pub async fn claim_due(
    conn: &mut PgConnection,
    lease: Duration,
    at_most: i32,
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select operation_id as "id!", operation_facility as "facility!"
           from payment.claim_due_operations($1, $2)"#,
        interval(lease)?,
        at_most,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.facility)).collect())
}

/// Gives an operation up to whoever resumes it, `after` some time.
pub async fn postpone(
    conn: &mut PgConnection,
    id: Uuid,
    state: State,
    after: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payment.operation set state = $2, lease_until = clock_timestamp() + $3, updated_at = now()
         where id = $1",
        id,
        state.name(),
        interval(after)?,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends the lease of an operation that was resumed `attempts` times, unless somebody has resumed it since.
pub async fn release(conn: &mut PgConnection, id: Uuid, attempts: u32) -> Result<(), sqlx::Error> {
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

/// Writes down how an operation ended.
pub async fn close(conn: &mut PgConnection, operation: &Operation) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payment.operation set state = $2, reference = $3, refusal = $4, updated_at = now() where id = $1",
        operation.id,
        operation.state.name(),
        operation.reference,
        operation.refusal,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes down what was taken of an authorization and given back of it.
pub async fn account(
    conn: &mut PgConnection,
    id: Uuid,
    captured: i64,
    refunded: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payment.operation set captured = captured + $2, refunded = refunded + $3 where id = $1",
        id,
        captured,
        refunded,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes the refund that a REFUND operation is to make.
pub async fn insert_refund(
    conn: &mut PgConnection,
    facility: &str,
    operation: &Operation,
) -> Result<(), sqlx::Error> {
    let currency = operation.amount.currency();
    sqlx::query!(
        "insert into payment.refund (id, facility, payment_id, currency, amount, reason, state)
         values ($1, $2, $3, $4, $5, $6, 'PENDING')",
        operation.id,
        facility,
        operation.payment_id,
        currency.code(),
        operation.amount.minor(),
        operation.reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes down how a refund ended.
pub async fn close_refund(conn: &mut PgConnection, id: Uuid, state: RefundState) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payment.refund set state = $2 where id = $1",
        id,
        state.name()
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

impl TryFrom<Row> for Leased {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let operation = Operation {
            id: row.id,
            payment_id: row.payment_id,
            kind: known("kind of operation", &row.kind, Kind::named(&row.kind))?,
            state: known("state of an operation", &row.state, State::named(&row.state))?,
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
            for_another: Duration::from_secs_f64(row.leased_seconds),
        })
    }
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

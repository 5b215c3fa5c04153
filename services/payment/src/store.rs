//! All SQL on the payment schema. Everything takes a connection: the use case owns the transaction.

pub mod ledger;
pub mod locks;
pub mod operations;
pub mod payments;
pub mod updates;

use money::Currency;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::payment::{Payment, Purpose, State};

/// A refund as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    pub id: Uuid,
    pub payment_id: Uuid,
    pub amount: i64,
    pub reason: String,
    pub state: RefundState,
    pub created_at: OffsetDateTime,
}

/// Where a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundState {
    Pending,
    Succeeded,
    Failed,
}

/// What a list of payments is narrowed to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub order_id: Option<Uuid>,
    pub state: Option<State>,
}

/// Reads a payment by its id, or by order and purpose.
pub async fn read(
    conn: &mut PgConnection,
    id: Option<Uuid>,
    of: Option<(Uuid, Purpose)>,
) -> Result<Option<Payment>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "select id, order_id, purpose, state, currency, amount, authorized, captured, refunded, method,
             processor_reference, decline_reason, version, expires_at, created_at, updated_at
         from payment.payment
         where ($1::uuid is null or id = $1) and ($2::uuid is null or (order_id = $2 and purpose = $3))
             and ($1::uuid is not null or $2::uuid is not null)",
        id,
        of.map(|(order_id, _)| order_id),
        of.map(|(_, purpose)| purpose.name()),
    )
    .fetch_optional(conn)
    .await?;
    row.map(Payment::try_from).transpose()
}

/// Payments, newest first, that come after `after`.
pub async fn list(
    conn: &mut PgConnection,
    filter: Filter,
    after: Option<Uuid>,
    at_most: i64,
) -> Result<Vec<Payment>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "select id, order_id, purpose, state, currency, amount, authorized, captured, refunded, method,
             processor_reference, decline_reason, version, expires_at, created_at, updated_at
         from payment.payment
         where facility = current_setting('weft.facility', true)
             and ($1::uuid is null or order_id = $1) and ($2::text is null or state = $2)
             and ($3::uuid is null or id < $3)
         order by id desc limit $4",
        filter.order_id,
        filter.state.map(State::name),
        after,
        at_most,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Payment::try_from).collect()
}

/// Notes by which version of its order a payment's amount is asked for; false when a later one has said already.
pub async fn ask(conn: &mut PgConnection, id: Uuid, version: i64) -> Result<bool, sqlx::Error> {
    let noted = sqlx::query!(
        "update payment.payment set asked_version = $2 where id = $1 and asked_version <= $2",
        id,
        version,
    );
    Ok(noted.execute(conn).await?.rows_affected() == 1)
}

/// The refunds of these payments, oldest first.
pub async fn refunds(conn: &mut PgConnection, payments: &[Uuid]) -> Result<Vec<Refund>, sqlx::Error> {
    let rows = sqlx::query!(
        "select id, payment_id, amount, reason, state, created_at
         from payment.refund where payment_id = any($1) order by id",
        payments,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let state = known("refund state", &row.state, RefundState::named(&row.state))?;
            let (id, payment_id, created_at) = (row.id, row.payment_id, row.created_at);
            Ok(Refund {
                id,
                payment_id,
                amount: row.amount,
                reason: row.reason,
                state,
                created_at,
            })
        })
        .collect()
}

/// Those of these payments whose capture the processor was asked for and has not answered.
pub async fn capturing(conn: &mut PgConnection, payments: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select payment_id from payment.operation
         where payment_id = any($1) and state in ('RUNNING', 'UNKNOWN') and kind = 'CAPTURE'",
        payments,
    )
    .fetch_all(conn)
    .await
}

/// An authorization that was not captured in time.
#[derive(Clone, Debug)]
pub struct Lapsed {
    pub payment_id: Uuid,
    pub facility: String,
    pub lapsed_at: OffsetDateTime,
}

/// Authorizations that have lapsed, of all facilities: those after the time `after`, the longest lapsed first.
pub async fn lapsed(
    conn: &mut PgConnection,
    after: Option<OffsetDateTime>,
    at_most: i32,
) -> Result<Vec<Lapsed>, sqlx::Error> {
    sqlx::query_as!(
        Lapsed,
        r#"select payment_id as "payment_id!", payment_facility as "facility!", lapsed_at as "lapsed_at!"
           from payment.lapsed_authorizations($1, $2)"#,
        after,
        at_most,
    )
    .fetch_all(conn)
    .await
}

impl RefundState {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Pending, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// A payment's columns.
struct Row {
    id: Uuid,
    order_id: Uuid,
    purpose: String,
    state: String,
    currency: Option<String>,
    amount: i64,
    authorized: i64,
    captured: i64,
    refunded: i64,
    method: String,
    processor_reference: String,
    decline_reason: String,
    version: i64,
    expires_at: Option<OffsetDateTime>,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

impl TryFrom<Row> for Payment {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.id,
            order_id: row.order_id,
            purpose: known("purpose", &row.purpose, Purpose::named(&row.purpose))?,
            state: known("payment state", &row.state, State::named(&row.state))?,
            currency: row.currency.as_deref().map(currency).transpose()?,
            amount: row.amount,
            authorized: row.authorized,
            captured: row.captured,
            refunded: row.refunded,
            method: row.method,
            processor_reference: row.processor_reference,
            decline_reason: row.decline_reason,
            version: row.version,
            expires_at: row.expires_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// What the schema's own checks keep out of a row is a fault of the database when it is there.
fn known<T>(what: &str, name: &str, value: Option<T>) -> Result<T, sqlx::Error> {
    value.ok_or_else(|| sqlx::Error::Decode(format!("{name} is not a {what}").into()))
}

fn currency(code: &str) -> Result<Currency, sqlx::Error> {
    code.parse()
        .map_err(|error: money::Error| sqlx::Error::Decode(Box::new(error)))
}

//! All SQL on the payment schema. Every function takes a connection, because the use case owns the transaction.

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

/// A refund of a payment. The amount is in minor units of the payment's currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    pub id: Uuid,
    pub payment_id: Uuid,
    pub amount: i64,
    pub reason: String,
    pub state: RefundState,
    pub created_at: OffsetDateTime,
}

/// The state of a refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundState {
    Pending,
    Succeeded,
    Failed,
}

/// The filter of a list of payments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub order_id: Option<Uuid>,
    pub state: Option<State>,
}

/// Finds a payment by its id, or by order and purpose.
pub async fn find(
    conn: &mut PgConnection,
    id: Option<Uuid>,
    order_purpose: Option<(Uuid, Purpose)>,
) -> Result<Option<Payment>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "select id, order_id, purpose, state, currency, amount, authorized, captured, refunded, method,
             processor_reference, decline_reason, version, expires_at, created_at, updated_at
         from payment.payment
         where ($1::uuid is null or id = $1) and ($2::uuid is null or (order_id = $2 and purpose = $3))
             and ($1::uuid is not null or $2::uuid is not null)",
        id,
        order_purpose.map(|(order_id, _)| order_id),
        order_purpose.map(|(_, purpose)| purpose.name()),
    )
    .fetch_optional(conn)
    .await?;
    row.map(Payment::try_from).transpose()
}

/// Lists at most `at_most` payments that come after `after`, newest first.
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

/// Records the version of the order that sets a payment's amount. False if a later version has set it already.
pub async fn record_order_version(
    conn: &mut PgConnection,
    id: Uuid,
    version: i64,
) -> Result<bool, sqlx::Error> {
    let updated = sqlx::query!(
        "update payment.payment set asked_version = $2 where id = $1 and asked_version <= $2",
        id,
        version,
    );
    Ok(updated.execute(conn).await?.rows_affected() == 1)
}

/// Lists the refunds of the payments, oldest first.
pub async fn list_refunds(conn: &mut PgConnection, payments: &[Uuid]) -> Result<Vec<Refund>, sqlx::Error> {
    let rows = sqlx::query!(
        "select id, payment_id, amount, reason, state, created_at
         from payment.refund where payment_id = any($1) order by id",
        payments,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let state = decode_name("refund state", &row.state, RefundState::from_name(&row.state))?;
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

/// Lists the ids of those of the payments that have an open capture.
pub async fn list_capturing(conn: &mut PgConnection, payments: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
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
pub struct LapsedAuthorization {
    pub payment_id: Uuid,
    pub facility: String,
    pub lapsed_at: OffsetDateTime,
}

/// Lists at most `at_most` authorizations of all facilities that have lapsed after the time `after`, the earliest
/// first.
pub async fn list_lapsed(
    conn: &mut PgConnection,
    after: Option<OffsetDateTime>,
    at_most: i32,
) -> Result<Vec<LapsedAuthorization>, sqlx::Error> {
    sqlx::query_as!(
        LapsedAuthorization,
        r#"select payment_id as "payment_id!", payment_facility as "facility!", lapsed_at as "lapsed_at!"
           from payment.lapsed_authorizations($1, $2)"#,
        after,
        at_most,
    )
    .fetch_all(conn)
    .await
}

impl RefundState {
    /// The name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Pending, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// The columns of a payment.
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
            purpose: decode_name("purpose", &row.purpose, Purpose::from_name(&row.purpose))?,
            state: decode_name("payment state", &row.state, State::from_name(&row.state))?,
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

/// Decodes a stored name, which fails if the name is unknown. The schema's checks keep such names out.
fn decode_name<T>(what: &str, name: &str, value: Option<T>) -> Result<T, sqlx::Error> {
    value.ok_or_else(|| sqlx::Error::Decode(format!("{name} is not a {what}").into()))
}

fn currency(code: &str) -> Result<Currency, sqlx::Error> {
    code.parse()
        .map_err(|error: money::Error| sqlx::Error::Decode(Box::new(error)))
}

//! Orders, without their lines.

use chassis::{Facility, idempotency::Key};
use prost::Message;
use proto::claims::v1::ClaimDetails;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::corrupt;
use crate::{
    order::{Order, Price, State},
    settlement::{Account, Hold},
};

/// How a list of orders is narrowed down. What is empty does not count.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<State>,
    pub patient_id: String,
    pub line_code: String,
}

/// A row of `orders.placed_order`.
struct Row {
    id: Uuid,
    facility: String,
    reference: String,
    patient_id: String,
    currency: String,
    gross: i64,
    patient_share: i64,
    payer_net: i64,
    other_payer: i64,
    payer_id: String,
    immediate: bool,
    payment_method: String,
    state: String,
    payment_id: Option<Uuid>,
    claim_id: Option<Uuid>,
    failure: Option<serde_json::Value>,
    remarks: serde_json::Value,
    payer_paid: i64,
    transferred: i64,
    payer_written_off: i64,
    patient_written_off: i64,
    balance_paid: i64,
    payer_returned: i64,
    patient_returned: i64,
    hold: String,
    activities: serde_json::Value,
    claim_version: i64,
    refunded: i64,
    credit_refunded: i64,
    rounding: i64,
    refund_count: i32,
    saga_id: Uuid,
    busy: bool,
    version: i64,
    expires_at: Option<OffsetDateTime>,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

/// Orders, by what follows `from orders.placed_order`. The columns are named: a later migration may add others while this
/// version serves, and a statement whose result changes its type is refused by PostgreSQL until it is prepared anew.
macro_rules! orders {
    ($rest:literal, $($argument:expr),+) => {
        sqlx::query_as!(
            Row,
            "select id, facility, reference, patient_id, currency, gross, patient_share, payer_net, other_payer,
                 payer_id, immediate, payment_method, state, payment_id, claim_id, failure, remarks, payer_paid,
                 transferred, payer_written_off, patient_written_off, balance_paid, payer_returned, patient_returned,
                 hold, activities, claim_version, refunded, credit_refunded, rounding, refund_count, saga_id, busy,
                 version, expires_at, created_at, updated_at
             from orders.placed_order "
                + $rest,
            $($argument),+
        )
    };
}

/// Reads an order.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<Order>, sqlx::Error> {
    let row = orders!("where id = $1", id).fetch_optional(conn).await?;
    row.map(Order::try_from).transpose()
}

/// Reads an order by the caller's own number.
pub async fn by_reference(conn: &mut PgConnection, reference: &str) -> Result<Option<Order>, sqlx::Error> {
    let row = orders!(
        "where facility = current_setting('weft.facility', true) and reference = $1 and reference <> ''
         order by state in ('rejected', 'expired', 'cancelled'), id desc limit 1",
        reference
    );
    row.fetch_optional(conn).await?.map(Order::try_from).transpose()
}

/// Reads an order and keeps others from changing it until the transaction ends.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Order>, sqlx::Error> {
    let row = orders!("where id = $1 for update", id);
    row.fetch_optional(conn).await?.map(Order::try_from).transpose()
}

/// What changes with an order, for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The order's version.
    pub version: i64,
    /// Refunds that have neither gone through nor failed.
    pub pending_refunds: i64,
}

/// The marks of those orders that there are.
pub async fn marks(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<(Uuid, Mark)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select o.id, o.version,
                  (select count(*) from orders.order_refund r where r.order_id = o.id and r.state = 'pending')
                  as "pending_refunds!"
           from orders.placed_order o where o.id = any($1)"#,
        ids
    )
    .fetch_all(conn)
    .await?;
    let marks = rows.into_iter().map(|row| {
        let mark = Mark {
            version: row.version,
            pending_refunds: row.pending_refunds,
        };
        (row.id, mark)
    });
    Ok(marks.collect())
}

/// An order's version; `None` when there is no such order.
pub async fn version(conn: &mut PgConnection, id: Uuid) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("select version from orders.placed_order where id = $1", id)
        .fetch_optional(conn)
        .await
}

/// The orders that match, newest first, at most `limit`, after the order `after`.
pub async fn list(
    conn: &mut PgConnection,
    filter: &Filter,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    let state = filter.state.map(State::name);
    let rows = if filter.line_code.is_empty() {
        let rows = orders!(
            "o where facility = current_setting('weft.facility', true)
               and ($1::uuid is null or id < $1)
               and ($2::text is null or state = $2)
               and ($3 = '' or (patient_id = $3 and patient_id <> ''))
             order by id desc limit $4",
            after,
            state as Option<&str>,
            filter.patient_id,
            limit
        );
        rows.fetch_all(conn).await?
    } else {
        // A statement of its own: behind an `or`, PostgreSQL reads every line with the code before it looks at any order.
        let rows = orders!(
            "o where facility = current_setting('weft.facility', true)
               and ($1::uuid is null or id < $1)
               and ($2::text is null or state = $2)
               and ($3 = '' or (patient_id = $3 and patient_id <> ''))
               and exists (
                   select from orders.order_line l
                   where l.facility = current_setting('weft.facility', true) and l.code = $4 and l.order_id = o.id)
             order by id desc limit $5",
            after,
            state as Option<&str>,
            filter.patient_id,
            filter.line_code,
            limit
        );
        rows.fetch_all(conn).await?
    };
    rows.into_iter().map(Order::try_from).collect()
}

/// Writes a new order down. Its claim, if it has one, goes beside it. A second order of the same request breaks
/// `placed_order_request`.
pub async fn insert(
    conn: &mut PgConnection,
    order: &Order,
    claim: Option<&ClaimDetails>,
    key: &Key,
) -> Result<(), sqlx::Error> {
    let details = claim.map(ClaimDetails::encode_to_vec);
    sqlx::query!(
        "with placed as (
             insert into orders.placed_order (id, facility, reference, patient_id, currency, gross, patient_share,
                 payer_net, other_payer, payer_id, immediate, payment_method, state, saga_id, busy, version,
                 created_at, updated_at, request_id, request_hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $17, $19, $20)
         )
         insert into orders.order_claim (order_id, facility, details)
         select $1, $2, $18 where $18::bytea is not null",
        order.id,
        order.facility.as_str(),
        order.reference,
        order.patient_id,
        order.currency.code(),
        order.price.gross,
        order.price.patient_share,
        order.price.payer_net,
        order.price.other_payer,
        order.payer_id,
        order.immediate,
        order.payment_method,
        order.state.name(),
        order.saga_id,
        order.busy,
        order.version,
        order.created_at,
        details,
        key.request_id(),
        key.hash()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The order that a request has made, and the fingerprint of the request; however long ago.
pub async fn made_by(
    conn: &mut PgConnection,
    facility: &Facility,
    key: &Key,
) -> Result<Option<(Uuid, Vec<u8>)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select id, request_hash as "request_hash!" from orders.placed_order
           where facility = $1 and request_id = $2"#,
        facility.as_str(),
        key.request_id()
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.id, row.request_hash)))
}

/// Writes an order that was at version `from`; false when it has moved on since.
pub async fn save(conn: &mut PgConnection, order: &Order, from: i64) -> Result<bool, sqlx::Error> {
    let failure = order
        .failure
        .as_ref()
        .and_then(|failure| serde_json::to_value(failure).ok());
    let encoded = |error: serde_json::Error| sqlx::Error::Encode(error.into());
    let activities = serde_json::to_value(&order.activities).map_err(encoded)?;
    let remarks = serde_json::to_value(&order.remarks).map_err(encoded)?;
    let saved = sqlx::query!(
        "update orders.placed_order set state = $3, payment_id = $4, claim_id = $5, failure = $6, payer_paid = $7,
             transferred = $8, payer_written_off = $9, patient_written_off = $10, balance_paid = $11,
             payer_returned = $12, patient_returned = $13, hold = $14, activities = $15, claim_version = $16,
             refunded = $17, refund_count = $18, saga_id = $19, busy = $20, version = $21, expires_at = $22,
             updated_at = $23, remarks = $24, credit_refunded = $25, rounding = $26
         where id = $1 and version = $2",
        order.id,
        from,
        order.state.name(),
        order.payment_id,
        order.claim_id,
        failure,
        order.account.payer_paid,
        order.account.transferred,
        order.account.payer_written_off,
        order.account.patient_written_off,
        order.account.balance_paid,
        order.account.payer_returned,
        order.account.patient_returned,
        order.hold.name(),
        activities,
        order.claim_version,
        order.account.refunded,
        order.refund_count,
        order.saga_id,
        order.busy,
        order.version,
        order.expires_at,
        order.updated_at,
        remarks,
        order.account.credit_refunded,
        order.account.rounding
    )
    .execute(conn)
    .await?;
    Ok(saved.rows_affected() == 1)
}

/// The claim as it was ordered.
pub async fn claim(conn: &mut PgConnection, order_id: Uuid) -> Result<Option<ClaimDetails>, sqlx::Error> {
    let details = sqlx::query_scalar!(
        "select details from orders.order_claim where order_id = $1",
        order_id
    )
    .fetch_optional(conn)
    .await?;
    let decoded = details
        .map(|bytes| ClaimDetails::decode(bytes.as_slice()))
        .transpose();
    decoded.map_err(|error| sqlx::Error::Decode(error.into()))
}

impl TryFrom<Row> for Order {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Order, sqlx::Error> {
        let failure = row
            .failure
            .map(serde_json::from_value)
            .transpose()
            .map_err(|_| corrupt("order failure"))?;
        Ok(Order {
            id: row.id,
            facility: Facility::new(row.facility).map_err(|_| corrupt("facility"))?,
            reference: row.reference,
            patient_id: row.patient_id,
            currency: row.currency.parse().map_err(|_| corrupt("currency"))?,
            price: Price {
                gross: row.gross,
                patient_share: row.patient_share,
                payer_net: row.payer_net,
                other_payer: row.other_payer,
            },
            payer_id: row.payer_id,
            immediate: row.immediate,
            payment_method: row.payment_method,
            state: State::named(&row.state).ok_or_else(|| corrupt("order state"))?,
            payment_id: row.payment_id,
            claim_id: row.claim_id,
            failure,
            remarks: serde_json::from_value(row.remarks).map_err(|_| corrupt("order remarks"))?,
            account: Account {
                payer_paid: row.payer_paid,
                transferred: row.transferred,
                payer_written_off: row.payer_written_off,
                patient_written_off: row.patient_written_off,
                balance_paid: row.balance_paid,
                payer_returned: row.payer_returned,
                patient_returned: row.patient_returned,
                refunded: row.refunded,
                credit_refunded: row.credit_refunded,
                rounding: row.rounding,
            },
            hold: Hold::named(&row.hold).ok_or_else(|| corrupt("hold"))?,
            activities: serde_json::from_value(row.activities).map_err(|_| corrupt("activities"))?,
            claim_version: row.claim_version,
            refund_count: row.refund_count,
            saga_id: row.saga_id,
            busy: row.busy,
            version: row.version,
            expires_at: row.expires_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            changes: Vec::new(),
        })
    }
}

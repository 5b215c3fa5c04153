//! Orders, without their lines.

use chassis::{Facility, idempotency::Key};
use prost::Message;
use proto::claims::v1::ClaimDetails;
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Column, order_row::Row};
use crate::order::{Line, Order, State};

/// The filter of a list of orders. Empty fields are ignored.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<State>,
    pub patient_id: String,
    pub line_code: String,
}

/// Selects orders; the argument is the rest of the statement after `from orders.placed_order`. The columns are
/// named because a later migration may add others while this version serves, and PostgreSQL rejects a prepared
/// statement whose result type changes.
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

/// Finds an order by the caller's reference.
pub async fn find_by_reference(
    conn: &mut PgConnection,
    reference: &str,
) -> Result<Option<Order>, sqlx::Error> {
    let row = orders!(
        "where facility = current_setting('weft.facility', true) and reference = $1 and reference <> ''
         order by state in ('rejected', 'expired', 'cancelled'), id desc limit 1",
        reference
    );
    row.fetch_optional(conn).await?.map(Order::try_from).transpose()
}

/// Reads an order and locks it until the transaction ends.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Order>, sqlx::Error> {
    let row = orders!("where id = $1 for update", id);
    row.fetch_optional(conn).await?.map(Order::try_from).transpose()
}

/// What changes with an order that its subscribers are notified about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The order's version.
    pub version: i64,
    /// Refunds that have neither succeeded nor failed.
    pub pending_refunds: i64,
}

/// Lists the revisions of the orders that exist.
pub async fn list_revisions(
    conn: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Revision)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select o.id, o.version,
                  (select count(*) from orders.order_refund r where r.order_id = o.id and r.state = 'pending')
                  as "pending_refunds!"
           from orders.placed_order o where o.id = any($1)"#,
        ids
    )
    .fetch_all(conn)
    .await?;
    let revisions = rows.into_iter().map(|row| {
        let revision = Revision {
            version: row.version,
            pending_refunds: row.pending_refunds,
        };
        (row.id, revision)
    });
    Ok(revisions.collect())
}

/// Reads an order's version; `None` when there is no such order.
pub async fn get_version(conn: &mut PgConnection, id: Uuid) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("select version from orders.placed_order where id = $1", id)
        .fetch_optional(conn)
        .await
}

/// Lists the orders that match, newest first, at most `limit`, after the order `after`.
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
        // A separate statement: with an `or`, PostgreSQL would read every line with the code before any order.
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

/// An order to be inserted.
#[derive(Clone, Copy, Debug)]
pub struct NewRow<'a> {
    pub order: &'a Order,
    pub lines: &'a [Line],
    /// The encoded claim, if the order has one.
    pub claim: Option<&'a [u8]>,
    /// The key of the request that creates it.
    pub key: &'a Key,
}

/// Inserts orders with their lines and claims. Returns the ids of those that were inserted: of the others, the
/// reference is taken, or the request has created an order before.
pub async fn insert(conn: &mut PgConnection, new: &[NewRow<'_>]) -> Result<Vec<Uuid>, sqlx::Error> {
    let lines: Vec<(Uuid, &Line)> = new
        .iter()
        .flat_map(|new| new.lines.iter().map(|line| (new.order.id, line)))
        .collect();
    let (column, line) = (Column(new), Column(&lines));
    sqlx::query_scalar!(
        "with new as (
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
                 $8::bigint[], $9::bigint[], $10::text[], $11::boolean[], $12::text[], $13::text[], $14::uuid[],
                 $15::boolean[], $16::bigint[], $17::timestamptz[], $18::uuid[], $19::bytea[], $20::bytea[])
                 as new (id, facility, reference, patient_id, currency, gross, patient_share, payer_net, other_payer,
                     payer_id, immediate, payment_method, state, saga_id, busy, version, created_at, request_id,
                     request_hash, details)
         ), placed as (
             insert into orders.placed_order (id, facility, reference, patient_id, currency, gross, patient_share,
                 payer_net, other_payer, payer_id, immediate, payment_method, state, saga_id, busy, version,
                 created_at, updated_at, request_id, request_hash)
             select id, facility, reference, patient_id, currency, gross, patient_share, payer_net, other_payer,
                 payer_id, immediate, payment_method, state, saga_id, busy, version, created_at, created_at, request_id,
                 request_hash
             from new order by facility, reference, request_id
             on conflict do nothing
             returning id, facility
         ), claims as (
             insert into orders.order_claim (order_id, facility, details)
             select id, facility, new.details from placed join new using (id, facility) where new.details is not null
         ), lines as (
             insert into orders.order_line (order_id, facility, number, code, description, quantity, amount)
             select placed.id, placed.facility, number, code, description, quantity, amount
             from placed join unnest($21::uuid[], $22::integer[], $23::text[], $24::text[], $25::text[], $26::bigint[])
                 as lines (order_id, number, code, description, quantity, amount) on lines.order_id = placed.id
         )
         select id from placed",
        &column.map(|new| new.order.id),
        &column.map(|new| new.order.facility.as_str()) as &[&str],
        &column.map(|new| new.order.reference.as_str()) as &[&str],
        &column.map(|new| new.order.patient_id.as_str()) as &[&str],
        &column.map(|new| new.order.currency.code()) as &[&str],
        &column.map(|new| new.order.price.gross),
        &column.map(|new| new.order.price.patient_share),
        &column.map(|new| new.order.price.payer_net),
        &column.map(|new| new.order.price.other_payer),
        &column.map(|new| new.order.payer_id.as_str()) as &[&str],
        &column.map(|new| new.order.immediate),
        &column.map(|new| new.order.payment_method.as_str()) as &[&str],
        &column.map(|new| new.order.state.name()) as &[&str],
        &column.map(|new| new.order.saga_id),
        &column.map(|new| new.order.busy),
        &column.map(|new| new.order.version),
        &column.map(|new| new.order.created_at),
        &column.map(|new| new.key.request_id()),
        &column.map(|new| new.key.hash()) as &[&[u8]],
        &column.map(|new| new.claim) as &[Option<&[u8]>],
        &line.map(|(order_id, _)| order_id),
        &line.map(|(_, line)| line.number),
        &line.map(|(_, line)| line.code.as_str()) as &[&str],
        &line.map(|(_, line)| line.description.as_str()) as &[&str],
        &line.map(|(_, line)| line.quantity.to_string()),
        &line.map(|(_, line)| line.amount),
    )
    .fetch_all(conn)
    .await
}

/// Finds the order that a request has created, with the hash of the request, however long ago.
pub async fn find_by_request(
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

/// Updates orders if they are still at the version beside them. Returns the ids of those that were updated: the
/// others have changed since.
pub async fn save(conn: &mut PgConnection, orders: &[(&Order, i64)]) -> Result<Vec<Uuid>, sqlx::Error> {
    let json = |value: serde_json::Result<Value>| value.map_err(|error| sqlx::Error::Encode(error.into()));
    let (mut failures, mut activities, mut remarks) = (Vec::new(), Vec::new(), Vec::new());
    for (order, _) in orders {
        failures.push(
            order
                .failure
                .as_ref()
                .map(|failure| json(serde_json::to_value(failure)))
                .transpose()?,
        );
        activities.push(json(serde_json::to_value(&order.activities))?);
        remarks.push(json(serde_json::to_value(&order.remarks))?);
    }
    let column = Column(orders);
    sqlx::query_scalar!(
        "update orders.placed_order o set state = new.state, payment_id = new.payment_id, claim_id = new.claim_id,
             failure = new.failure, payer_paid = new.payer_paid, transferred = new.transferred,
             payer_written_off = new.payer_written_off, patient_written_off = new.patient_written_off,
             balance_paid = new.balance_paid, payer_returned = new.payer_returned,
             patient_returned = new.patient_returned, hold = new.hold, activities = new.activities,
             claim_version = new.claim_version, refunded = new.refunded, refund_count = new.refund_count,
             saga_id = new.saga_id, busy = new.busy, version = new.version, expires_at = new.expires_at,
             updated_at = new.updated_at, remarks = new.remarks, credit_refunded = new.credit_refunded,
             rounding = new.rounding
         from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::uuid[], $6::uuid[], $7::jsonb[], $8::bigint[],
             $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[],
             $16::jsonb[], $17::bigint[], $18::bigint[], $19::integer[], $20::uuid[], $21::boolean[], $22::bigint[],
             $23::timestamptz[], $24::timestamptz[], $25::jsonb[], $26::bigint[], $27::bigint[])
             as new (id, facility, from_version, state, payment_id, claim_id, failure, payer_paid, transferred,
                 payer_written_off, patient_written_off, balance_paid, payer_returned, patient_returned, hold,
                 activities, claim_version, refunded, refund_count, saga_id, busy, version, expires_at, updated_at,
                 remarks, credit_refunded, rounding)
         where o.id = new.id and o.facility = new.facility and o.version = new.from_version
         returning o.id",
        &column.map(|(order, _)| order.id),
        &column.map(|(order, _)| order.facility.as_str()) as &[&str],
        &column.map(|(_, from)| from),
        &column.map(|(order, _)| order.state.name()) as &[&str],
        &column.map(|(order, _)| order.payment_id) as &[Option<Uuid>],
        &column.map(|(order, _)| order.claim_id) as &[Option<Uuid>],
        &failures as &[Option<Value>],
        &column.map(|(order, _)| order.account.payer_paid),
        &column.map(|(order, _)| order.account.transferred),
        &column.map(|(order, _)| order.account.payer_written_off),
        &column.map(|(order, _)| order.account.patient_written_off),
        &column.map(|(order, _)| order.account.balance_paid),
        &column.map(|(order, _)| order.account.payer_returned),
        &column.map(|(order, _)| order.account.patient_returned),
        &column.map(|(order, _)| order.hold.name()) as &[&str],
        &activities,
        &column.map(|(order, _)| order.claim_version),
        &column.map(|(order, _)| order.account.refunded),
        &column.map(|(order, _)| order.refund_count),
        &column.map(|(order, _)| order.saga_id),
        &column.map(|(order, _)| order.busy),
        &column.map(|(order, _)| order.version),
        &column.map(|(order, _)| order.expires_at) as &[Option<OffsetDateTime>],
        &column.map(|(order, _)| order.updated_at),
        &remarks,
        &column.map(|(order, _)| order.account.credit_refunded),
        &column.map(|(order, _)| order.account.rounding),
    )
    .fetch_all(conn)
    .await
}

/// Reads the claim as it was ordered.
pub async fn get_claim(conn: &mut PgConnection, order_id: Uuid) -> Result<Option<ClaimDetails>, sqlx::Error> {
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

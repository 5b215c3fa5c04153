//! Inserts payments.

use std::collections::HashMap;

use chassis::Facility;
use money::Currency;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::payment::Payment;

/// The columns of payments, as arrays for `unnest`.
pub(super) struct Columns<'a> {
    pub(super) facilities: Vec<&'a str>,
    pub(super) ids: Vec<Uuid>,
    pub(super) states: Vec<&'a str>,
    pub(super) currencies: Vec<Option<&'a str>>,
    pub(super) amounts: Vec<i64>,
    pub(super) authorized: Vec<i64>,
    pub(super) captured: Vec<i64>,
    pub(super) refunded: Vec<i64>,
    pub(super) methods: Vec<&'a str>,
    pub(super) processor_references: Vec<&'a str>,
    pub(super) decline_reasons: Vec<&'a str>,
    pub(super) versions: Vec<i64>,
    pub(super) expire_times: Vec<Option<OffsetDateTime>>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(payments: &[(&'a Facility, &'a Payment)]) -> Self {
        let numbers = |value: fn(&Payment) -> i64| payments.iter().map(|(_, one)| value(one)).collect();
        Self {
            facilities: payments.iter().map(|(facility, _)| facility.as_str()).collect(),
            ids: payments.iter().map(|(_, one)| one.id).collect(),
            states: payments.iter().map(|(_, one)| one.state.name()).collect(),
            currencies: payments
                .iter()
                .map(|(_, one)| one.currency.as_ref().map(Currency::code))
                .collect(),
            amounts: numbers(|one| one.amount),
            authorized: numbers(|one| one.authorized),
            captured: numbers(|one| one.captured),
            refunded: numbers(|one| one.refunded),
            methods: payments.iter().map(|(_, one)| one.method.as_str()).collect(),
            processor_references: payments
                .iter()
                .map(|(_, one)| one.processor_reference.as_str())
                .collect(),
            decline_reasons: payments
                .iter()
                .map(|(_, one)| one.decline_reason.as_str())
                .collect(),
            versions: numbers(|one| one.version),
            expire_times: payments.iter().map(|(_, one)| one.expires_at).collect(),
        }
    }
}

/// Inserts payments, except those whose order has one for the purpose already. Returns the creation time of each
/// inserted payment by its id.
pub async fn insert(
    conn: &mut PgConnection,
    payments: &[(&Facility, &Payment)],
) -> Result<HashMap<Uuid, OffsetDateTime>, sqlx::Error> {
    let columns = Columns::new(payments);
    let orders: Vec<Uuid> = payments.iter().map(|(_, one)| one.order_id).collect();
    let purposes: Vec<&str> = payments.iter().map(|(_, one)| one.purpose.name()).collect();
    // Sorted, so that two transactions that insert payments of the same orders cannot deadlock.
    let inserted = sqlx::query!(
        "insert into payment.payment (id, facility, order_id, purpose, state, currency, amount, method, version)
         select id, facility, order_id, purpose, state, currency, amount, method, version
         from unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
             $9::bigint[]) as new (id, facility, order_id, purpose, state, currency, amount, method, version)
         order by facility, order_id, purpose
         on conflict on constraint payment_order_purpose do nothing
         returning id, created_at",
        &columns.ids,
        &columns.facilities as &[&str],
        &orders,
        &purposes as &[&str],
        &columns.states as &[&str],
        &columns.currencies as &[Option<&str>],
        &columns.amounts,
        &columns.methods as &[&str],
        &columns.versions,
    )
    .fetch_all(conn)
    .await?;
    Ok(inserted.into_iter().map(|row| (row.id, row.created_at)).collect())
}

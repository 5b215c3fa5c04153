//! Locks payments, always in the order of their ids, and reads what the decisions on them need.

use chassis::{Facility, idempotency::Key};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Row, decode_name, operations::Charge};
use crate::{
    operation::{Kind, State},
    payment::{Payment, Purpose},
};

/// Selects payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Payment(Uuid),
    /// The payment of the order for the purpose.
    OrderPurpose(Uuid, Purpose),
    /// All payments of the order.
    Order(Uuid),
}

impl Target {
    /// Whether the payment is selected.
    pub fn matches(self, payment: &Payment) -> bool {
        match self {
            Self::Payment(id) => payment.id == id,
            Self::OrderPurpose(order, purpose) => payment.order_id == order && payment.purpose == purpose,
            Self::Order(order) => payment.order_id == order,
        }
    }
}

/// A payment that this transaction has locked.
#[derive(Clone, Debug)]
pub struct LockedPayment {
    pub facility: String,
    pub payment: Payment,
    /// The time of the transaction, which all its rows get.
    pub now: OffsetDateTime,
}

/// A summary of a payment's operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct OperationSummary {
    /// The operation whose final outcome is not recorded yet.
    pub open: Option<(Uuid, Kind)>,
    /// The latest authorization that succeeded: the current one of an AUTHORIZED payment.
    pub authorization: Option<Uuid>,
    /// The charge with the most left to refund.
    pub charge: Option<Charge>,
}

/// The first operation of an earlier request with the same id, even if its stored response has expired.
#[derive(Clone, Debug)]
pub struct EarlierOperation {
    pub operation_id: Uuid,
    /// The hash of that request's content.
    pub request_hash: Vec<u8>,
}

/// The columns of a payment, from a row that has further columns.
macro_rules! payment {
    ($row:ident) => {
        Row {
            id: $row.id,
            order_id: $row.order_id,
            purpose: $row.purpose,
            state: $row.state,
            currency: $row.currency,
            amount: $row.amount,
            authorized: $row.authorized,
            captured: $row.captured,
            refunded: $row.refunded,
            method: $row.method,
            processor_reference: $row.processor_reference,
            decline_reason: $row.decline_reason,
            version: $row.version,
            expires_at: $row.expires_at,
            created_at: $row.created_at,
            updated_at: $row.updated_at,
        }
    };
}

/// Locks the selected payments in the order of their ids.
pub async fn lock_payments(
    conn: &mut PgConnection,
    targets: &[(&Facility, Target)],
) -> Result<Vec<LockedPayment>, sqlx::Error> {
    let (mut facilities, mut ids) = (Vec::new(), Vec::new());
    let (mut order_facilities, mut orders, mut purposes) = (Vec::new(), Vec::new(), Vec::new());
    for (facility, target) in targets {
        let all = [Purpose::Share, Purpose::Balance];
        let (order, wanted) = match target {
            Target::Payment(id) => {
                facilities.push(facility.as_str());
                ids.push(*id);
                continue;
            }
            Target::OrderPurpose(order, Purpose::Share) => (order, &all[..1]),
            Target::OrderPurpose(order, Purpose::Balance) => (order, &all[1..]),
            Target::Order(order) => (order, &all[..]),
        };
        for purpose in wanted {
            order_facilities.push(facility.as_str());
            orders.push(*order);
            purposes.push(purpose.name());
        }
    }
    let rows = sqlx::query!(
        r#"select p.facility, p.id, p.order_id, p.purpose, p.state, p.currency, p.amount, p.authorized, p.captured,
               p.refunded, p.method, p.processor_reference, p.decline_reason, p.version, p.expires_at, p.created_at,
               p.updated_at, now() as "now!"
           from payment.payment p join (
                   select facility, id from unnest($1::text[], $2::uuid[]) as named (facility, id)
                   union
                   select q.facility, q.id
                   from unnest($3::text[], $4::uuid[], $5::text[]) as named (facility, order_id, purpose)
                       join payment.payment q using (facility, order_id, purpose)
               ) wanted on p.facility = wanted.facility and p.id = wanted.id
           order by p.id for update of p"#,
        &facilities as &[&str],
        &ids,
        &order_facilities as &[&str],
        &orders,
        &purposes as &[&str],
    )
    .fetch_all(conn)
    .await?;
    let locked = rows.into_iter().map(|row| {
        Ok(LockedPayment {
            facility: row.facility,
            payment: payment!(row).try_into()?,
            now: row.now,
        })
    });
    locked.collect()
}

/// Locks one payment.
pub async fn lock_payment(
    conn: &mut PgConnection,
    facility: &Facility,
    target: Target,
) -> Result<Option<LockedPayment>, sqlx::Error> {
    Ok(lock_payments(conn, &[(facility, target)]).await?.pop())
}

/// Lists summaries of the payments' operations in the given order, each with the operation that an earlier request
/// with the given key has begun. An earlier statement must have locked the payments.
pub async fn list_summaries(
    conn: &mut PgConnection,
    wanted: &[(&Facility, Uuid, Option<&Key>)],
) -> Result<Vec<(OperationSummary, Option<EarlierOperation>)>, sqlx::Error> {
    let facilities: Vec<&str> = wanted.iter().map(|(facility, ..)| facility.as_str()).collect();
    let payments: Vec<Uuid> = wanted.iter().map(|(_, payment, _)| *payment).collect();
    let methods: Vec<&str> = wanted
        .iter()
        .map(|(.., key)| key.map_or("", Key::method))
        .collect();
    let requests: Vec<Option<Uuid>> = wanted.iter().map(|(.., key)| key.map(Key::request_id)).collect();
    let rows = sqlx::query!(
        r#"select open.id as "open_id?", open.kind as "open_kind?", authorized.id as "authorization_id?",
               charge.id as "charge_id?", charge.remainder as "remainder?", begun.id as "begun_id?",
               begun.request_hash as "hash?"
           from unnest($1::text[], $2::uuid[], $3::text[], $4::uuid[]) with ordinality
                   as wanted (facility, payment_id, method, request_id, position)
               left join lateral (
                   select o.id, o.kind from payment.operation o
                   where o.facility = wanted.facility and o.payment_id = wanted.payment_id
                       and o.state in ('RUNNING', 'UNKNOWN')
               ) open on true
               left join lateral (
                   select o.id from payment.operation o
                   where o.facility = wanted.facility and o.payment_id = wanted.payment_id
                       and o.kind = 'AUTHORIZE' and o.state = 'SUCCEEDED'
                   order by o.id desc limit 1
               ) authorized on true
               left join lateral (
                   select o.id, o.captured - o.refunded as remainder from payment.operation o
                   where o.facility = wanted.facility and o.payment_id = wanted.payment_id
                       and o.kind = 'AUTHORIZE' and o.captured > o.refunded
                   order by o.captured - o.refunded desc, o.id limit 1
               ) charge on true
               left join lateral (
                   select o.id, o.request_hash from payment.operation o
                   where o.facility = wanted.facility and o.request_method = wanted.method
                       and o.request_id = wanted.request_id and o.request_method <> ''
               ) begun on true
           order by wanted.position"#,
        &facilities as &[&str],
        &payments,
        &methods as &[&str],
        &requests as &[Option<Uuid>],
    )
    .fetch_all(conn)
    .await?;
    let summaries = rows.into_iter().map(|row| {
        let kind = row
            .open_kind
            .map(|kind| decode_name("kind of operation", &kind, Kind::from_name(&kind)));
        let charge = row.charge_id.zip(row.remainder);
        let summary = OperationSummary {
            open: row.open_id.zip(kind.transpose()?),
            authorization: row.authorization_id,
            charge: charge.map(|(authorization_id, left)| Charge {
                authorization_id,
                left,
            }),
        };
        let earlier = row.begun_id.zip(row.hash);
        Ok((
            summary,
            earlier.map(|(operation_id, request_hash)| EarlierOperation {
                operation_id,
                request_hash,
            }),
        ))
    });
    summaries.collect()
}

/// An operation and its payment, both locked.
#[derive(Clone, Debug)]
pub struct LockedOperation {
    pub operation_id: Uuid,
    pub payment: LockedPayment,
    /// The operation's state.
    pub state: State,
    /// How often the operation's lease was acquired again.
    pub attempts: u32,
}

/// Locks operations, each after its payment, in the order of the payments' ids. They are given by facility,
/// payment id and operation id.
pub async fn lock_operations(
    conn: &mut PgConnection,
    wanted: &[(&Facility, Uuid, Uuid)],
) -> Result<Vec<LockedOperation>, sqlx::Error> {
    let facilities: Vec<&str> = wanted.iter().map(|(facility, ..)| facility.as_str()).collect();
    let payments: Vec<Uuid> = wanted.iter().map(|(_, payment, _)| *payment).collect();
    let operations: Vec<Uuid> = wanted.iter().map(|(.., operation)| *operation).collect();
    // Both rows are locked, so that both are read as the last committed transaction left them.
    let rows = sqlx::query!(
        r#"select p.facility, p.id, p.order_id, p.purpose, p.state, p.currency, p.amount, p.authorized, p.captured,
               p.refunded, p.method, p.processor_reference, p.decline_reason, p.version, p.expires_at, p.created_at,
               p.updated_at, now() as "now!", o.id as operation_id, o.state as operation_state, o.attempts
           from unnest($1::text[], $2::uuid[], $3::uuid[]) as named (facility, payment_id, operation_id)
               join payment.payment p on p.facility = named.facility and p.id = named.payment_id
               join payment.operation o on o.facility = named.facility and o.id = named.operation_id
                   and o.payment_id = named.payment_id
           order by p.id for update of p, o"#,
        &facilities as &[&str],
        &payments,
        &operations,
    )
    .fetch_all(conn)
    .await?;
    let locked = rows.into_iter().map(|row| {
        let state = &row.operation_state;
        Ok(LockedOperation {
            operation_id: row.operation_id,
            payment: LockedPayment {
                facility: row.facility,
                payment: payment!(row).try_into()?,
                now: row.now,
            },
            state: decode_name("state of an operation", state, State::from_name(state))?,
            attempts: u32::try_from(row.attempts).unwrap_or(0),
        })
    });
    locked.collect()
}

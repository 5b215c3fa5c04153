//! Locks payments in one order, whatever asks for them, and reads what is decided by.

use chassis::{Facility, idempotency::Key};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Row, known, operations::Charge};
use crate::{
    operation::{Kind, State},
    payment::{Payment, Purpose},
};

/// Names payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Payment(Uuid),
    /// That of the order for the purpose.
    Of(Uuid, Purpose),
    /// All of the order.
    Order(Uuid),
}

impl Target {
    /// Whether the payment is one of those.
    pub fn names(self, payment: &Payment) -> bool {
        match self {
            Self::Payment(id) => payment.id == id,
            Self::Of(order, purpose) => payment.order_id == order && payment.purpose == purpose,
            Self::Order(order) => payment.order_id == order,
        }
    }
}

/// A payment that this transaction has locked.
#[derive(Clone, Debug)]
pub struct Locked {
    pub facility: String,
    pub payment: Payment,
    /// The time of the transaction, which is that of all it writes.
    pub now: OffsetDateTime,
}

/// What is known beside a locked payment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// The operation that the processor has not answered finally.
    pub open: Option<(Uuid, Kind)>,
    /// The latest authorization that succeeded: the one that an AUTHORIZED payment stands on.
    pub authorization: Option<Uuid>,
    /// The charge with the most left to refund.
    pub charge: Option<Charge>,
}

/// What a request has begun, however long ago.
#[derive(Clone, Debug)]
pub struct Begun {
    pub operation_id: Uuid,
    /// The fingerprint of that request.
    pub hash: Vec<u8>,
}

/// The columns of a payment in a row that has others beside them.
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

/// Locks the payments that are named, in the order of their ids.
pub async fn lock(
    conn: &mut PgConnection,
    targets: &[(&Facility, Target)],
) -> Result<Vec<Locked>, sqlx::Error> {
    let (mut facilities, mut ids) = (Vec::new(), Vec::new());
    let (mut of_facilities, mut orders, mut purposes) = (Vec::new(), Vec::new(), Vec::new());
    for (facility, target) in targets {
        let all = [Purpose::Share, Purpose::Balance];
        let (order, wanted) = match target {
            Target::Payment(id) => {
                facilities.push(facility.as_str());
                ids.push(*id);
                continue;
            }
            Target::Of(order, Purpose::Share) => (order, &all[..1]),
            Target::Of(order, Purpose::Balance) => (order, &all[1..]),
            Target::Order(order) => (order, &all[..]),
        };
        for purpose in wanted {
            of_facilities.push(facility.as_str());
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
        &of_facilities as &[&str],
        &orders,
        &purposes as &[&str],
    )
    .fetch_all(conn)
    .await?;
    let locked = rows.into_iter().map(|row| {
        Ok(Locked {
            facility: row.facility,
            payment: payment!(row).try_into()?,
            now: row.now,
        })
    });
    locked.collect()
}

/// Locks one payment.
pub async fn lock_one(
    conn: &mut PgConnection,
    facility: &Facility,
    target: Target,
) -> Result<Option<Locked>, sqlx::Error> {
    Ok(lock(conn, &[(facility, target)]).await?.pop())
}

/// What is known beside payments, in their order, and what each request has begun that is named with one. The payments must
/// be locked by a statement before.
pub async fn standing(
    conn: &mut PgConnection,
    wanted: &[(&Facility, Uuid, Option<&Key>)],
) -> Result<Vec<(Standing, Option<Begun>)>, sqlx::Error> {
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
    let standings = rows.into_iter().map(|row| {
        let kind = row
            .open_kind
            .map(|kind| known("kind of operation", &kind, Kind::named(&kind)));
        let charge = row.charge_id.zip(row.remainder);
        let standing = Standing {
            open: row.open_id.zip(kind.transpose()?),
            authorization: row.authorization_id,
            charge: charge.map(|(authorization_id, left)| Charge {
                authorization_id,
                left,
            }),
        };
        let begun = row.begun_id.zip(row.hash);
        Ok((
            standing,
            begun.map(|(operation_id, hash)| Begun { operation_id, hash }),
        ))
    });
    standings.collect()
}

/// A payment and an operation of it, both locked.
#[derive(Clone, Debug)]
pub struct Exchanged {
    pub operation_id: Uuid,
    pub locked: Locked,
    /// The operation's.
    pub state: State,
    /// How often the operation was resumed.
    pub attempts: u32,
}

/// Locks operations and before each its payment, in the order of the payments. They are named by facility, payment and
/// operation.
pub async fn lock_exchanged(
    conn: &mut PgConnection,
    named: &[(&Facility, Uuid, Uuid)],
) -> Result<Vec<Exchanged>, sqlx::Error> {
    let facilities: Vec<&str> = named.iter().map(|(facility, ..)| facility.as_str()).collect();
    let payments: Vec<Uuid> = named.iter().map(|(_, payment, _)| *payment).collect();
    let operations: Vec<Uuid> = named.iter().map(|(.., operation)| *operation).collect();
    // Both rows are locked, so that both are read as the last transaction left them.
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
    let exchanged = rows.into_iter().map(|row| {
        let state = &row.operation_state;
        Ok(Exchanged {
            operation_id: row.operation_id,
            locked: Locked {
                facility: row.facility,
                payment: payment!(row).try_into()?,
                now: row.now,
            },
            state: known("state of an operation", state, State::named(state))?,
            attempts: u32::try_from(row.attempts).unwrap_or(0),
        })
    });
    exchanged.collect()
}

//! Inserts drafts of claims and finds what they conflict with.

use std::collections::HashSet;

use chassis::Facility;
use prost::Message;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Record;

/// A draft to be inserted.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// Its facility.
    pub facility: &'a Facility,
    /// The claim.
    pub record: &'a Record,
}

/// Why a draft cannot be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The order's claim was withdrawn before it was prepared.
    OrderWithdrawn,
    /// The order has a claim already.
    OrderBilled,
    /// Another claim has the number.
    NumberTaken,
}

/// Locks these orders until the transaction ends, against other transactions that prepare or withdraw their
/// claims. The locks are acquired in a fixed order, so that transactions do not deadlock.
pub async fn lock_orders(conn: &mut PgConnection, order_ids: &[Uuid]) -> Result<(), sqlx::Error> {
    let lock = |id: &Uuid| {
        let (high, low) = id.as_u64_pair();
        (high ^ low).cast_signed()
    };
    let mut locks: Vec<_> = order_ids.iter().map(lock).collect();
    locks.sort_unstable();
    sqlx::query!(
        "select pg_advisory_xact_lock(lock) as locked from unnest($1::bigint[]) as lock",
        &locks
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// Inserts tombstones: the claims of these orders were withdrawn before they were prepared, with the reasons.
pub async fn insert_tombstones(
    conn: &mut PgConnection,
    orders: &[(&Facility, Uuid, &str)],
) -> Result<(), sqlx::Error> {
    let facilities: Vec<_> = orders.iter().map(|(facility, ..)| facility.as_str()).collect();
    let ids: Vec<_> = orders.iter().map(|(_, id, _)| *id).collect();
    let reasons: Vec<_> = orders.iter().map(|(.., reason)| *reason).collect();
    sqlx::query!(
        "insert into claims.tombstone (facility, order_id, reason)
         select facility, order_id, reason from unnest($1::text[], $2::uuid[], $3::text[]) as o (facility, order_id, reason)
         order by facility, order_id
         on conflict do nothing",
        &facilities as &[&str],
        &ids,
        &reasons as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts validated drafts; the caller has locked the orders. Returns the ids of the claims that were inserted;
/// [`list_conflicts`] returns why the others were not.
pub async fn insert(conn: &mut PgConnection, drafts: &[Draft<'_>]) -> Result<HashSet<Uuid>, sqlx::Error> {
    fn column<'a, T>(drafts: &[Draft<'a>], value: impl Fn(&'a Record) -> T) -> Vec<T> {
        drafts.iter().map(|draft| value(draft.record)).collect()
    }
    let facilities: Vec<_> = drafts.iter().map(|draft| draft.facility.as_str()).collect();
    // In a fixed order, so that two transactions with common numbers do not deadlock.
    let inserted = sqlx::query_scalar!(
        "insert into claims.claim (id, facility, order_id, provider_id, claim_id, payer_id, state, details, id_payer,
             version, created_at, updated_at)
         select id, facility, order_id, provider_id, claim_id, payer_id, state, details, id_payer, version, created_at,
             created_at
         from unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
             $9::text[], $10::bigint[], $11::timestamptz[])
             as draft (id, facility, order_id, provider_id, claim_id, payer_id, state, details, id_payer, version,
                 created_at)
         where not exists (
             select from claims.tombstone t where t.facility = draft.facility and t.order_id = draft.order_id)
         order by facility, provider_id, claim_id
         on conflict do nothing
         returning id",
        &column(drafts, |claim| claim.id),
        &facilities as &[&str],
        &column(drafts, |claim| claim.order_id),
        &column(drafts, |claim| claim.details.provider_id.as_str()) as &[&str],
        &column(drafts, |claim| claim.details.claim_id.as_str()) as &[&str],
        &column(drafts, |claim| claim.details.payer_id.as_str()) as &[&str],
        &column(drafts, |claim| claim.state.as_str()) as &[&str],
        &column(drafts, |claim| claim.details.encode_to_vec()),
        &column(drafts, |claim| claim.id_payer.as_str()) as &[&str],
        &column(drafts, |claim| claim.version),
        &column(drafts, |claim| claim.created_at),
    );
    Ok(inserted.fetch_all(conn).await?.into_iter().collect())
}

/// The conflict of each draft with stored data, in the order of the drafts.
pub async fn list_conflicts(
    conn: &mut PgConnection,
    drafts: &[Draft<'_>],
) -> Result<Vec<Option<Conflict>>, sqlx::Error> {
    let facilities: Vec<_> = drafts.iter().map(|draft| draft.facility.as_str()).collect();
    let orders: Vec<_> = drafts.iter().map(|draft| draft.record.order_id).collect();
    let details = || drafts.iter().map(|draft| &draft.record.details);
    let providers: Vec<_> = details().map(|details| details.provider_id.as_str()).collect();
    let numbers: Vec<_> = details().map(|details| details.claim_id.as_str()).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select
             exists (select from claims.tombstone t
                     where t.facility = draft.facility and t.order_id = draft.order_id) as "is_withdrawn!",
             exists (select from claims.claim c
                     where c.facility = draft.facility and c.order_id = draft.order_id) as "is_billed!",
             exists (select from claims.claim c
                     where c.facility = draft.facility and c.provider_id = draft.provider_id
                         and c.claim_id = draft.claim_id and c.freed <> c.id) as "is_taken!"
         from unnest($1::text[], $2::uuid[], $3::text[], $4::text[]) with ordinality
             as draft (facility, order_id, provider_id, claim_id, position)
         order by draft.position"#,
        &facilities as &[&str],
        &orders,
        &providers as &[&str],
        &numbers as &[&str],
    )
    .fetch_all(conn)
    .await?;
    let conflict = |row: &Row| {
        [
            (row.is_withdrawn, Conflict::OrderWithdrawn),
            (row.is_billed, Conflict::OrderBilled),
            (row.is_taken, Conflict::NumberTaken),
        ]
        .into_iter()
        .find_map(|(exists, conflict)| exists.then_some(conflict))
    };
    Ok(rows.iter().map(conflict).collect())
}

struct Row {
    is_withdrawn: bool,
    is_billed: bool,
    is_taken: bool,
}

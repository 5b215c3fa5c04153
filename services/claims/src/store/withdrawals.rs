//! Withdrawal of claims.

use chassis::Facility;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Record, Row};

/// Locks the claims of these orders in the order of their ids.
pub async fn lock_claims(
    conn: &mut PgConnection,
    orders: &[(&Facility, Uuid)],
) -> Result<Vec<Record>, sqlx::Error> {
    let facilities: Vec<_> = orders.iter().map(|(facility, _)| facility.as_str()).collect();
    let ids: Vec<_> = orders.iter().map(|(_, id)| *id).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select c.id, c.order_id, c.details, c.state, c.cycle, c.id_payer, c.remitter_id, c.rejection, c.version,
               c.submitted_at, c.filing_epoch, coalesce(c.filing_until > now(), false) as "filing!", c.created_at,
               c.updated_at
           from unnest($1::text[], $2::uuid[]) as wanted (facility, order_id)
               join claims.claim c on c.facility = wanted.facility and c.order_id = wanted.order_id
           order by c.id for update of c"#,
        &facilities as &[&str],
        &ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Record::try_from).collect()
}

/// Withdraws claims; the caller has locked their rows. A call that is submitting one of them loses its lease. A
/// claim that was never leased keeps its lease epoch of 0, which frees its number. Returns the time of the change.
pub async fn withdraw(
    conn: &mut PgConnection,
    claims: &[(&Facility, Uuid)],
) -> Result<OffsetDateTime, sqlx::Error> {
    let facilities: Vec<_> = claims.iter().map(|(facility, _)| facility.as_str()).collect();
    let ids: Vec<_> = claims.iter().map(|(_, id)| *id).collect();
    let at = sqlx::query_scalar!(
        "update claims.claim c
         set state = 'WITHDRAWN', version = c.version + 1, next_filing_at = null, updated_at = now(),
             filing_epoch = c.filing_epoch + case when c.filing_epoch > 0 then 1 else 0 end
         from unnest($1::text[], $2::uuid[]) as withdrawn (facility, id)
         where c.facility = withdrawn.facility and c.id = withdrawn.id
         returning c.updated_at",
        &facilities as &[&str],
        &ids,
    )
    .fetch_all(conn)
    .await?;
    at.first().copied().ok_or(sqlx::Error::RowNotFound)
}

//! Parked remittance lines: they are not booked yet and wait for their claim or for the decision of a person.

use chassis::Facility;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::remittances::{Advice, Columns, NewLine};

/// A line that is not booked.
#[derive(Clone, Debug)]
pub struct ParkedLine {
    /// Its id.
    pub id: i64,
    /// The file.
    pub file: Uuid,
    /// The claim's index in the file, from 0.
    pub ordinal: i32,
    /// The line's index in the claim, from 0.
    pub line: i32,
    /// The provider's licence.
    pub provider_id: String,
    /// The facility's number of the claim.
    pub claim_id: String,
    /// The payer's number of the claim.
    pub id_payer: String,
    /// The sender of the file; empty for lines stored by a release that did not store senders.
    pub sender_id: String,
    /// Why it is not booked.
    pub reason: String,
    /// The activity.
    pub activity_id: String,
    /// The payment in minor units; negative for a takeback.
    pub payment: i64,
    /// The denial code; empty for none.
    pub denial_code: String,
    /// The payer's payment reference.
    pub payment_reference: String,
    /// When it was settled.
    pub settled_at: OffsetDateTime,
    /// The name of the file.
    pub file_name: String,
    /// When it was parked.
    pub parked_at: OffsetDateTime,
}

/// The number of a claim, by which remittance lines refer to it.
#[derive(Clone, Copy, Debug)]
pub struct ClaimNumber<'a> {
    /// The provider's licence.
    pub provider_id: &'a str,
    /// The facility's number.
    pub claim_id: &'a str,
}

/// Conditions on the parked lines of a list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only lines that are parked for this reason.
    pub reason: Option<&'static str>,
    /// Only lines of this claim.
    pub claim_id: Option<String>,
}

/// Locks these claim numbers until the transaction ends, against other transactions that book or park lines of
/// these claims or record their submission. A claim therefore cannot be submitted between the look-up of the claim
/// and the parking of its lines. The locks are acquired in a fixed order and before the claims' rows, so that
/// transactions do not deadlock.
pub async fn lock_numbers(
    conn: &mut PgConnection,
    numbers: &[(&Facility, ClaimNumber<'_>)],
) -> Result<(), sqlx::Error> {
    let facilities: Vec<_> = numbers.iter().map(|(facility, _)| facility.as_str()).collect();
    let providers: Vec<_> = numbers.iter().map(|(_, number)| number.provider_id).collect();
    let claims: Vec<_> = numbers.iter().map(|(_, number)| number.claim_id).collect();
    sqlx::query!(
        "with number as materialized (
             select distinct
                 hashtextextended(concat_ws(chr(31), 'claim number', facility, provider_id, claim_id), 0) as lock
             from unnest($1::text[], $2::text[], $3::text[]) as n (facility, provider_id, claim_id)
             order by lock
         )
         select pg_advisory_xact_lock(lock) as locked from number",
        &facilities as &[&str],
        &providers as &[&str],
        &claims as &[&str],
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// Parks lines of one claim of one file, all for the same reason.
pub async fn insert(
    conn: &mut PgConnection,
    facility: &str,
    number: ClaimNumber<'_>,
    id_payer: &str,
    advice: Advice<'_>,
    (reason, lines): (&str, &[NewLine]),
) -> Result<(), sqlx::Error> {
    let columns = Columns::new(lines);
    sqlx::query!(
        "with line as (
             select * from unnest($11::int[], $12::text[], $13::bigint[], $14::text[]) with ordinality
                 as l (line, activity_id, payment, denial_code, position)
         ), early as (
             insert into claims.parked_line (facility, provider_id, claim_id, id_payer, file, ordinal, payment_reference,
                 settled_at, sender_id, currency, line, activity_id, payment, denial_code)
             select $1, $2, $3, $4, $5, $6, $7, $8, $9, 'AED', line, activity_id, payment, denial_code
             from line where $10 = 'EARLY' order by position
         )
         insert into claims.held_line (facility, provider_id, claim_id, id_payer, file, ordinal, payment_reference,
             settled_at, sender_id, reason, currency, line, activity_id, payment, denial_code)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'AED', line, activity_id, payment, denial_code
         from line where $10 <> 'EARLY' order by position",
        facility,
        number.provider_id,
        number.claim_id,
        id_payer,
        advice.file,
        advice.ordinal,
        advice.payment_reference,
        advice.settled_at,
        advice.sender_id,
        reason,
        &columns.line,
        &columns.activity_id as _,
        &columns.payment,
        &columns.denial_code as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The lines of this claim number that are neither booked nor discarded, oldest first.
pub async fn list_by_number(
    conn: &mut PgConnection,
    facility: &str,
    number: ClaimNumber<'_>,
) -> Result<Vec<ParkedLine>, sqlx::Error> {
    sqlx::query_as!(
        ParkedLine,
        r#"select p.id as "id!", p.file as "file!", p.ordinal as "ordinal!", p.line as "line!",
             p.provider_id as "provider_id!", p.claim_id as "claim_id!", p.id_payer as "id_payer!",
             p.sender_id as "sender_id!", p.reason as "reason!", p.activity_id as "activity_id!",
             p.payment as "payment!", p.denial_code as "denial_code!",
             p.payment_reference as "payment_reference!", p.settled_at as "settled_at!", f.file_name,
             p.parked_at as "parked_at!"
         from claims.unbooked_line p join claims.remittance_file f on f.id = p.file
         where p.facility = $1 and p.provider_id = $2 and p.claim_id = $3
         order by p.id"#,
        facility,
        number.provider_id,
        number.claim_id,
    )
    .fetch_all(conn)
    .await
}

/// The line with this id, if it is neither booked nor discarded.
pub async fn find(
    conn: &mut PgConnection,
    facility: &str,
    id: i64,
) -> Result<Option<ParkedLine>, sqlx::Error> {
    sqlx::query_as!(
        ParkedLine,
        r#"select p.id as "id!", p.file as "file!", p.ordinal as "ordinal!", p.line as "line!",
             p.provider_id as "provider_id!", p.claim_id as "claim_id!", p.id_payer as "id_payer!",
             p.sender_id as "sender_id!", p.reason as "reason!", p.activity_id as "activity_id!",
             p.payment as "payment!", p.denial_code as "denial_code!",
             p.payment_reference as "payment_reference!", p.settled_at as "settled_at!", f.file_name,
             p.parked_at as "parked_at!"
         from claims.unbooked_line p join claims.remittance_file f on f.id = p.file
         where p.facility = $1 and p.id = $2"#,
        facility,
        id,
    )
    .fetch_optional(conn)
    .await
}

/// The lines that match, newest first, at most `limit`, with ids below `before`.
pub async fn list(
    conn: &mut PgConnection,
    facility: &str,
    filter: &Filter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<ParkedLine>, sqlx::Error> {
    sqlx::query_as!(
        ParkedLine,
        r#"select p.id as "id!", p.file as "file!", p.ordinal as "ordinal!", p.line as "line!",
             p.provider_id as "provider_id!", p.claim_id as "claim_id!", p.id_payer as "id_payer!",
             p.sender_id as "sender_id!", p.reason as "reason!", p.activity_id as "activity_id!",
             p.payment as "payment!", p.denial_code as "denial_code!",
             p.payment_reference as "payment_reference!", p.settled_at as "settled_at!", f.file_name,
             p.parked_at as "parked_at!"
         from claims.unbooked_line p join claims.remittance_file f on f.id = p.file
         where p.facility = $1 and ($2::text is null or p.reason = $2)
             and ($3::text is null or p.claim_id = $3) and ($4::bigint is null or p.id < $4)
         order by p.id desc limit $5"#,
        facility,
        filter.reason,
        filter.claim_id,
        before,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Deletes parked lines because they are being booked. Returns their number.
pub async fn delete(conn: &mut PgConnection, ids: &[i64]) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query_scalar!(
        r#"with early as (
               delete from claims.parked_line where id = any($1) and discarded_at is null returning 1
           ), held as (
               delete from claims.held_line where id = any($1) and discarded_at is null returning 1
           )
           select (select count(*) from early) + (select count(*) from held) as "taken!""#,
        ids
    )
    .fetch_one(conn)
    .await?;
    Ok(deleted.unsigned_abs())
}

/// Holds lines that were parked as early for the decision of a person instead, for this reason.
pub async fn hold(conn: &mut PgConnection, ids: &[i64], reason: &str) -> Result<(), sqlx::Error> {
    move_to_held(conn, ids, reason, None).await?;
    Ok(())
}

/// Discards a parked line. Returns the number of lines that were discarded, 0 or 1.
pub async fn discard(conn: &mut PgConnection, id: i64, reason: &str) -> Result<u64, sqlx::Error> {
    let moved = move_to_held(conn, &[id], "EARLY", Some(reason)).await?;
    if moved > 0 {
        return Ok(moved);
    }
    let discarded = sqlx::query!(
        "update claims.held_line set discarded_at = now(), discard_reason = $2
         where id = $1 and discarded_at is null",
        id,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(discarded.rows_affected())
}

/// Moves parked lines to the table of held lines, which the previous version of the service does not read.
async fn move_to_held(
    conn: &mut PgConnection,
    ids: &[i64],
    reason: &str,
    discarded: Option<&str>,
) -> Result<u64, sqlx::Error> {
    let moved = sqlx::query!(
        "with moved as (
             delete from claims.parked_line where id = any($1) and discarded_at is null returning *
         )
         insert into claims.held_line (id, facility, provider_id, claim_id, id_payer, sender_id, file, ordinal, line,
             activity_id, payment, currency, denial_code, payment_reference, settled_at, parked_at, reason, discarded_at,
             discard_reason)
         select id, facility, provider_id, claim_id, id_payer, sender_id, file, ordinal, line, activity_id, payment,
             currency, denial_code, payment_reference, settled_at, parked_at,
             case when reason = 'EARLY' then $2 else reason end,
             case when $3::text is not null then now() end, coalesce($3, '')
         from moved",
        ids,
        reason,
        discarded,
    )
    .execute(conn)
    .await?;
    Ok(moved.rows_affected())
}

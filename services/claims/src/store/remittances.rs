//! Remittance files, the reports of their claims, and booked lines.

use futures_util::stream::BoxStream;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Record;

/// A remittance line to be booked or parked.
#[derive(Clone, Debug)]
pub struct NewLine {
    /// The line's index in the claim, from 0.
    pub line: i32,
    /// The activity.
    pub activity_id: String,
    /// The payment in minor units; negative for a takeback.
    pub payment: i64,
    /// The denial code; empty for none.
    pub denial_code: String,
}

/// What the lines of one claim of one file have in common.
#[derive(Clone, Copy, Debug)]
pub struct Advice<'a> {
    /// The file.
    pub file: Uuid,
    /// The claim's index in the file, from 0.
    pub ordinal: i32,
    /// The sender of the file.
    pub sender_id: &'a str,
    /// The payer's payment reference.
    pub payment_reference: &'a str,
    /// When it was settled.
    pub settled_at: OffsetDateTime,
}

/// A booked line.
#[derive(Clone, Debug)]
pub struct BookedLine {
    /// The claim.
    pub claim: Uuid,
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
    /// The sender of the file; empty for lines stored by a release that did not store senders.
    pub sender_id: String,
    /// The file.
    pub file: Uuid,
    /// The claim's index in the file, from 0.
    pub ordinal: i32,
    /// The name of the file.
    pub file_name: String,
}

/// A remittance file as it is stored.
#[derive(Clone, Debug)]
pub struct FileRow {
    /// Its id.
    pub id: Uuid,
    /// Its name in the first import.
    pub file_name: String,
    /// The encoded report of the first import; `None` until that has finished.
    pub report: Option<Vec<u8>>,
    /// The number of its events.
    pub version: i64,
}

/// A remittance file that is imported.
#[derive(Clone, Copy, Debug)]
pub struct NewFile<'a> {
    /// Its facility.
    pub facility: &'a str,
    /// The SHA-256 of its content.
    pub digest: &'a [u8; 32],
    /// Its name.
    pub file_name: &'a str,
}

/// The lines that are booked on these claims, oldest first.
pub async fn list_lines(conn: &mut PgConnection, claims: &[Uuid]) -> Result<Vec<BookedLine>, sqlx::Error> {
    sqlx::query_as!(
        BookedLine,
        "select l.claim, l.activity_id, l.payment, l.denial_code, l.payment_reference, l.settled_at, l.sender_id,
             l.file, l.ordinal, f.file_name
         from claims.remittance_line l join claims.remittance_file f on f.id = l.file
         where l.claim = any($1) order by l.claim, l.id",
        claims,
    )
    .fetch_all(conn)
    .await
}

/// Inserts booked lines of a claim.
pub async fn insert_lines(
    conn: &mut PgConnection,
    facility: &str,
    claim: Uuid,
    advice: Advice<'_>,
    lines: &[NewLine],
) -> Result<(), sqlx::Error> {
    let columns = Columns::new(lines);
    sqlx::query!(
        "insert into claims.remittance_line (facility, claim, file, ordinal, payment_reference, settled_at, sender_id,
             currency, line, activity_id, payment, denial_code)
         select $1, $2, $3, $4, $5, $6, $7, 'AED', line, activity_id, payment, denial_code
         from unnest($8::int[], $9::text[], $10::bigint[], $11::text[]) with ordinality
             as l (line, activity_id, payment, denial_code, position)
         order by position",
        facility,
        claim,
        advice.file,
        advice.ordinal,
        advice.payment_reference,
        advice.settled_at,
        advice.sender_id,
        &columns.line,
        &columns.activity_id as _,
        &columns.payment,
        &columns.denial_code as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores a claim's new version, its payer's number and the sender of its remittances after lines were booked.
pub async fn update_claim(conn: &mut PgConnection, record: &Record) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update claims.claim set id_payer = $2, remitter_id = $3, version = $4, updated_at = now() where id = $1",
        record.id,
        record.id_payer,
        record.remitter_id,
        record.version,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether an earlier import refused this file as a whole.
pub async fn is_failed(
    conn: &mut PgConnection,
    facility: &str,
    digest: &[u8; 32],
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from claims.remittance_file
           where facility = $1 and digest = $2 and state = 'failed') as "failed!""#,
        facility,
        &digest[..],
    )
    .fetch_one(conn)
    .await
}

/// Finds or inserts the row of a file and locks it until the transaction ends.
pub async fn find_or_insert_file(conn: &mut PgConnection, new: NewFile<'_>) -> Result<FileRow, sqlx::Error> {
    // The update changes nothing. It locks an existing row.
    sqlx::query_as!(
        FileRow,
        "insert into claims.remittance_file as file (id, facility, digest, file_name, state)
         values ($1, $2, $3, $4, 'reading')
         on conflict (facility, digest) do update set updated_at = file.updated_at
         returning id, file_name, report, version",
        Uuid::now_v7(),
        new.facility,
        new.digest,
        new.file_name,
    )
    .fetch_one(conn)
    .await
}

/// Stores the new version of a file that has an event. A file without a report is marked as failed.
pub async fn update_file_version(conn: &mut PgConnection, id: Uuid, version: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update claims.remittance_file
         set version = $2, state = case when report is null then 'failed' else state end, updated_at = now()
         where id = $1",
        id,
        version,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks a file as ingested and stores its report.
pub async fn mark_ingested(
    conn: &mut PgConnection,
    id: Uuid,
    version: i64,
    report: &[u8],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update claims.remittance_file
         set state = 'ingested', report = $3, version = $2, updated_at = now() where id = $1",
        id,
        version,
        report,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores the report of one claim of a file. Returns false if it has one already.
pub async fn insert_claim_report(
    conn: &mut PgConnection,
    facility: &str,
    file: Uuid,
    ordinal: i32,
    report: &[u8],
) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query!(
        "insert into claims.remittance_claim (facility, file, ordinal, report) values ($1, $2, $3, $4)
         on conflict do nothing",
        facility,
        file,
        ordinal,
        report,
    )
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// The indexes of the claims of a file that have a report.
pub async fn list_processed_claims(conn: &mut PgConnection, file: Uuid) -> Result<Vec<i32>, sqlx::Error> {
    sqlx::query_scalar!(
        "select ordinal from claims.remittance_claim where file = $1",
        file
    )
    .fetch_all(conn)
    .await
}

/// Streams the reports of a file's claims in the order of the file, because all of them together may not fit into
/// memory.
pub fn stream_claim_reports(
    conn: &mut PgConnection,
    file: Uuid,
) -> BoxStream<'_, Result<Vec<u8>, sqlx::Error>> {
    sqlx::query_scalar!(
        "select report from claims.remittance_claim where file = $1 order by ordinal",
        file
    )
    .fetch(conn)
}

/// Lines as columns, for `unnest`.
pub(super) struct Columns<'a> {
    pub(super) line: Vec<i32>,
    pub(super) activity_id: Vec<&'a str>,
    pub(super) payment: Vec<i64>,
    pub(super) denial_code: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(lines: &'a [NewLine]) -> Columns<'a> {
        Columns {
            line: lines.iter().map(|line| line.line).collect(),
            activity_id: lines.iter().map(|line| line.activity_id.as_str()).collect(),
            payment: lines.iter().map(|line| line.payment).collect(),
            denial_code: lines.iter().map(|line| line.denial_code.as_str()).collect(),
        }
    }
}

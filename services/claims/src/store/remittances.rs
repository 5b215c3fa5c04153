//! Remittance files, what became of their claims, and their lines.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// A remittance line to be written, booked or parked.
#[derive(Clone, Debug)]
pub struct NewLine {
    /// Its place in the claim, from 0.
    pub line: i32,
    /// The activity.
    pub activity_id: String,
    /// Minor units; negative for a takeback.
    pub payment: i64,
    /// Empty: none.
    pub denial_code: String,
}

/// What the lines of one claim in one file have in common.
#[derive(Clone, Copy, Debug)]
pub struct Advice<'a> {
    /// The file.
    pub file: Uuid,
    /// The claim's place in it, from 0.
    pub ordinal: i32,
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
    /// Minor units.
    pub payment: i64,
    /// Empty: none.
    pub denial_code: String,
    /// The payer's payment reference.
    pub payment_reference: String,
    /// When it was settled.
    pub settled_at: OffsetDateTime,
    /// The name of its file.
    pub file_name: String,
}

/// A line taken out of waiting.
#[derive(Clone, Debug)]
pub struct ParkedLine {
    /// The file.
    pub file: Uuid,
    /// The claim's place in it.
    pub ordinal: i32,
    /// Its place in the claim.
    pub line: i32,
    /// The payer's number of the claim.
    pub id_payer: String,
    /// The activity.
    pub activity_id: String,
    /// Minor units.
    pub payment: i64,
    /// Empty: none.
    pub denial_code: String,
    /// The payer's payment reference.
    pub payment_reference: String,
    /// When it was settled.
    pub settled_at: OffsetDateTime,
}

/// Where a file stands.
#[derive(Clone, Debug)]
pub struct FileRow {
    /// The file.
    pub id: Uuid,
    /// Its first name.
    pub file_name: String,
    /// The encoded report of the first import, once it has ended.
    pub report: Option<Vec<u8>>,
    /// Counts its events.
    pub version: i64,
}

/// What is known of a file that comes in.
#[derive(Clone, Copy, Debug)]
pub struct NewFile<'a> {
    /// Whose it is.
    pub facility: &'a str,
    /// SHA-256.
    pub digest: &'a [u8; 32],
    /// Its name.
    pub file_name: &'a str,
}

/// The lines booked on these claims, oldest first.
pub async fn lines(conn: &mut PgConnection, claims: &[Uuid]) -> Result<Vec<BookedLine>, sqlx::Error> {
    sqlx::query_as!(
        BookedLine,
        "select l.claim, l.activity_id, l.payment, l.denial_code, l.payment_reference, l.settled_at, f.file_name
         from claims.remittance_line l join claims.remittance_file f on f.id = l.file
         where l.claim = any($1) order by l.claim, l.id",
        claims,
    )
    .fetch_all(conn)
    .await
}

/// Books lines on a claim.
pub async fn book(
    conn: &mut PgConnection,
    facility: &str,
    claim: Uuid,
    advice: Advice<'_>,
    lines: &[NewLine],
) -> Result<(), sqlx::Error> {
    let columns = Columns::of(lines);
    sqlx::query!(
        "insert into claims.remittance_line (facility, claim, file, ordinal, payment_reference, settled_at, currency,
             line, activity_id, payment, denial_code)
         select $1, $2, $3, $4, $5, $6, 'AED', line, activity_id, payment, denial_code
         from unnest($7::int[], $8::text[], $9::bigint[], $10::text[]) with ordinality
             as l (line, activity_id, payment, denial_code, position)
         order by position",
        facility,
        claim,
        advice.file,
        advice.ordinal,
        advice.payment_reference,
        advice.settled_at,
        &columns.line,
        &columns.activity_id as _,
        &columns.payment,
        &columns.denial_code as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The number by which a parked line will find its claim.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a> {
    /// The provider's licence.
    pub provider_id: &'a str,
    /// The facility's number.
    pub claim_id: &'a str,
    /// The payer's number.
    pub id_payer: &'a str,
}

/// Parks lines until their claim arrives.
pub async fn park(
    conn: &mut PgConnection,
    facility: &str,
    number: Number<'_>,
    advice: Advice<'_>,
    lines: &[NewLine],
) -> Result<(), sqlx::Error> {
    let columns = Columns::of(lines);
    sqlx::query!(
        "insert into claims.parked_line (facility, provider_id, claim_id, id_payer, file, ordinal, payment_reference,
             settled_at, currency, line, activity_id, payment, denial_code)
         select $1, $2, $3, $4, $5, $6, $7, $8, 'AED', line, activity_id, payment, denial_code
         from unnest($9::int[], $10::text[], $11::bigint[], $12::text[]) with ordinality
             as l (line, activity_id, payment, denial_code, position)
         order by position",
        facility,
        number.provider_id,
        number.claim_id,
        number.id_payer,
        advice.file,
        advice.ordinal,
        advice.payment_reference,
        advice.settled_at,
        &columns.line,
        &columns.activity_id as _,
        &columns.payment,
        &columns.denial_code as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes out the lines that have waited for these activities of this claim, in no order.
pub async fn unpark(
    conn: &mut PgConnection,
    facility: &str,
    provider_id: &str,
    claim_id: &str,
    activities: &[String],
) -> Result<Vec<ParkedLine>, sqlx::Error> {
    sqlx::query_as!(
        ParkedLine,
        "delete from claims.parked_line
         where facility = $1 and provider_id = $2 and claim_id = $3 and activity_id = any($4)
         returning file, ordinal, line, id_payer, activity_id, payment, denial_code, payment_reference, settled_at",
        facility,
        provider_id,
        claim_id,
        activities,
    )
    .fetch_all(conn)
    .await
}

/// Counts a claim's change by a remittance, and keeps the payer's number.
pub async fn touch(
    conn: &mut PgConnection,
    claim: Uuid,
    id_payer: &str,
    version: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update claims.claim set id_payer = $2, version = $3, updated_at = now() where id = $1",
        claim,
        id_payer,
        version,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds or makes the row of a file and locks it until the transaction ends.
pub async fn open_file(conn: &mut PgConnection, new: NewFile<'_>) -> Result<FileRow, sqlx::Error> {
    // The update changes nothing: it is what locks a row that is there already.
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

/// Counts an event of the file; a file that has not been ingested is failed.
pub async fn touch_file(conn: &mut PgConnection, id: Uuid, version: i64) -> Result<(), sqlx::Error> {
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

/// Keeps the report of a file that was read to its end.
pub async fn ingested(
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

/// Keeps what became of one claim of a file; false if that is known already.
pub async fn keep_claim(
    conn: &mut PgConnection,
    facility: &str,
    file: Uuid,
    ordinal: i32,
    report: &[u8],
) -> Result<bool, sqlx::Error> {
    let kept = sqlx::query!(
        "insert into claims.remittance_claim (facility, file, ordinal, report) values ($1, $2, $3, $4)
         on conflict do nothing",
        facility,
        file,
        ordinal,
        report,
    )
    .execute(conn)
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// The claims of a file that are done, by their places.
pub async fn done(conn: &mut PgConnection, file: Uuid) -> Result<Vec<i32>, sqlx::Error> {
    sqlx::query_scalar!(
        "select ordinal from claims.remittance_claim where file = $1",
        file
    )
    .fetch_all(conn)
    .await
}

/// What became of the claims of a file, in its order.
pub async fn claim_reports(conn: &mut PgConnection, file: Uuid) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar!(
        "select report from claims.remittance_claim where file = $1 order by ordinal",
        file
    )
    .fetch_all(conn)
    .await
}

/// Lines turned into columns, as `unnest` takes them.
struct Columns<'a> {
    line: Vec<i32>,
    activity_id: Vec<&'a str>,
    payment: Vec<i64>,
    denial_code: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(lines: &'a [NewLine]) -> Columns<'a> {
        Columns {
            line: lines.iter().map(|line| line.line).collect(),
            activity_id: lines.iter().map(|line| line.activity_id.as_str()).collect(),
            payment: lines.iter().map(|line| line.payment).collect(),
            denial_code: lines.iter().map(|line| line.denial_code.as_str()).collect(),
        }
    }
}

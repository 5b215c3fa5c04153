//! All SQL on the claims schema. Everything takes a connection: the use case owns the transaction.

pub mod drafts;
pub mod parked;
pub mod remittances;
pub mod sandbox;
pub mod submissions;
pub mod withdrawals;

use prost::Message;
use proto::claims::v1::ClaimDetails;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::claim::State;

/// A claim as it is stored.
#[derive(Clone, Debug)]
pub struct Record {
    /// Weft's identifier.
    pub id: Uuid,
    /// The order that it bills.
    pub order_id: Uuid,
    /// As last submitted.
    pub details: ClaimDetails,
    /// Where it stands.
    pub state: State,
    /// Which submission this is, from 1.
    pub cycle: i32,
    /// The payer's number; empty until a remittance names it.
    pub id_payer: String,
    /// Who sends its remittances; empty until one is booked.
    pub remitter_id: String,
    /// Why it was rejected.
    pub rejection: String,
    /// Counts the changes, from 1.
    pub version: i64,
    /// When the post office first took it.
    pub submitted_at: Option<OffsetDateTime>,
    /// Counts the leases; a late holder of an older one is refused.
    pub lease_epoch: i64,
    /// Whether somebody hands it to the post office at this moment.
    pub is_submitting: bool,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it last changed.
    pub updated_at: OffsetDateTime,
}

/// What a list of claims is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this order's.
    pub order_id: Option<Uuid>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only against this payer.
    pub payer_id: Option<String>,
}

/// A resubmission as it is stored.
#[derive(Clone, Debug)]
pub struct Resubmission {
    /// The claim.
    pub claim: Uuid,
    /// The number of claims.v1.ResubmissionType.
    pub kind: i32,
    /// What was changed or is complained of.
    pub comment: String,
    /// The cycle that it opened.
    pub cycle: i32,
    /// A document; empty when it was left out.
    pub attachment: Vec<u8>,
    /// Whether it was left out for its size.
    pub is_left_out: bool,
}

/// The claim of this number; of several the one that stands, else the newest that was withdrawn.
pub async fn find_id(
    conn: &mut PgConnection,
    facility: &str,
    provider_id: &str,
    claim_id: &str,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from claims.claim where facility = $1 and provider_id = $2 and claim_id = $3
         order by freed = id, id desc limit 1",
        facility,
        provider_id,
        claim_id,
    )
    .fetch_optional(conn)
    .await
}

/// Locks a claim until the transaction ends.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Record>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, order_id, details, state, cycle, id_payer, remitter_id, rejection, version, submitted_at, filing_epoch,
               coalesce(filing_until > now(), false) as "filing!", created_at, updated_at
           from claims.claim where id = $1 for update"#,
        id,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Record::try_from).transpose()
}

/// Reads claims, newest first.
pub async fn list(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Record>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, order_id, details, state, cycle, id_payer, remitter_id, rejection, version, submitted_at, filing_epoch,
               coalesce(filing_until > now(), false) as "filing!", created_at, updated_at
           from claims.claim where id = any($1) order by id desc"#,
        ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Record::try_from).collect()
}

/// The newest claims after `after` that match, at most `limit`.
pub async fn list_ids(
    conn: &mut PgConnection,
    facility: &str,
    filter: &Filter,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from claims.claim
         where facility = $1 and ($2::uuid is null or order_id = $2) and ($3::text is null or state = $3)
             and ($4::text is null or payer_id = $4) and ($5::uuid is null or id < $5)
         order by id desc limit $6",
        facility,
        filter.order_id,
        filter.state.map(State::as_str),
        filter.payer_id,
        after,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// The resubmissions of these claims, oldest first.
pub async fn list_resubmissions(
    conn: &mut PgConnection,
    claims: &[Uuid],
    max_attachment_bytes: i64,
) -> Result<Vec<Resubmission>, sqlx::Error> {
    sqlx::query_as!(
        Resubmission,
        r#"select claim, type as kind, comment, cycle, case when so_far <= $2 then attachment else '' end as "attachment!",
               so_far > $2 and attachment <> '' as "is_left_out!"
           from (select *, sum(octet_length(attachment)) over (partition by claim order by cycle) as so_far
                 from claims.resubmission where claim = any($1)) as resubmission
           order by claim, cycle"#,
        claims,
        max_attachment_bytes,
    )
    .fetch_all(conn)
    .await
}

/// The attachment of the resubmission that opened this cycle; `None` without such a resubmission.
pub async fn find_attachment(
    conn: &mut PgConnection,
    claim: Uuid,
    cycle: i32,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar!(
        "select attachment from claims.resubmission where claim = $1 and cycle = $2",
        claim,
        cycle
    )
    .fetch_optional(conn)
    .await
}

struct Row {
    id: Uuid,
    order_id: Uuid,
    details: Vec<u8>,
    state: String,
    cycle: i32,
    id_payer: String,
    remitter_id: String,
    rejection: String,
    version: i64,
    submitted_at: Option<OffsetDateTime>,
    filing_epoch: i64,
    filing: bool,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

impl TryFrom<Row> for Record {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Record, sqlx::Error> {
        Ok(Record {
            id: row.id,
            order_id: row.order_id,
            details: ClaimDetails::decode(&*row.details).map_err(unreadable)?,
            state: row.state.parse().map_err(unreadable)?,
            cycle: row.cycle,
            id_payer: row.id_payer,
            remitter_id: row.remitter_id,
            rejection: row.rejection,
            version: row.version,
            submitted_at: row.submitted_at,
            lease_epoch: row.filing_epoch,
            is_submitting: row.filing,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// What came out of the database is not what was put into it.
pub(crate) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

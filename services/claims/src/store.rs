//! All SQL on the claims schema. Every function takes a connection; the use case owns the transaction.

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
    /// The id that Weft has given it.
    pub id: Uuid,
    /// The order that it bills.
    pub order_id: Uuid,
    /// The content as last submitted.
    pub details: ClaimDetails,
    /// Its state.
    pub state: State,
    /// The number of the submission, from 1.
    pub cycle: i32,
    /// The payer's number of the claim; empty until a remittance contains it.
    pub id_payer: String,
    /// The sender of its remittances; empty until one is booked.
    pub remitter_id: String,
    /// Why it was rejected.
    pub rejection: String,
    /// The number of changes, from 1.
    pub version: i64,
    /// When the post office first received it.
    pub submitted_at: Option<OffsetDateTime>,
    /// The fencing epoch: grows with each lease and withdrawal. A write with an older epoch is refused.
    pub lease_epoch: i64,
    /// Whether a call holds the lease and is submitting it now.
    pub is_submitting: bool,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// Conditions on the claims of a list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only the claims of this order.
    pub order_id: Option<Uuid>,
    /// Only claims in this state.
    pub state: Option<State>,
    /// Only claims on this payer.
    pub payer_id: Option<String>,
}

/// A resubmission as it is stored.
#[derive(Clone, Debug)]
pub struct Resubmission {
    /// The claim.
    pub claim: Uuid,
    /// The enum number of its claims.v1.ResubmissionType.
    pub kind: i32,
    /// The reason: what was corrected, or the complaint.
    pub comment: String,
    /// The cycle that it started.
    pub cycle: i32,
    /// The attached document; empty if it was left out.
    pub attachment: Vec<u8>,
    /// Whether the attachment was left out because of its size.
    pub is_left_out: bool,
}

/// The id of the claim with this number. If several have it, the one whose number is not freed, else the newest.
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

/// The claims with these ids, newest first.
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

/// The ids of claims that match, newest first, at most `limit`, starting after `after`.
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

/// The resubmissions of these claims, oldest first. Per claim, attachments beyond `max_attachment_bytes` in total
/// are left out.
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

/// The attachment of the resubmission that started this cycle; `None` without such a resubmission.
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

/// The error for a stored value that cannot be decoded.
pub(crate) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

//! Submission to the post office: leases, outcomes and the claims that are due.

use std::collections::HashMap;

use chassis::Facility;
use prost::Message;
use proto::claims::v1::{ClaimDetails, Resubmission};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Record, Row};
use crate::claim::State;

/// The purpose of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The first submission.
    Submit,
    /// A repeated submission, or a query of the verdict.
    FollowUp,
}

impl Purpose {
    /// Whether a claim in `state` can be leased for this purpose.
    pub fn allows(self, state: State) -> bool {
        match self {
            Purpose::Submit => state == State::Validated,
            Purpose::FollowUp => state.is_undecided(),
        }
    }
}

/// A claim to be leased.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    /// Its facility.
    pub facility: &'a Facility,
    /// The claim.
    pub id: Uuid,
    /// The purpose of the lease.
    pub purpose: Purpose,
}

/// Locks these claims in the order of their ids and leases for `lease_ms` milliseconds those that are not leased
/// and whose state allows it. Returns the claims that exist, with their new lease epochs, and whether each was
/// leased; `is_submitting` is true if another call holds the lease.
pub async fn acquire_leases(
    conn: &mut PgConnection,
    requests: &[LeaseRequest<'_>],
    lease_ms: i64,
) -> Result<HashMap<Uuid, (Record, bool)>, sqlx::Error> {
    let facilities: Vec<_> = requests.iter().map(|request| request.facility.as_str()).collect();
    let ids: Vec<_> = requests.iter().map(|request| request.id).collect();
    let submits: Vec<_> = requests
        .iter()
        .map(|request| request.purpose == Purpose::Submit)
        .collect();
    let rows = sqlx::query_as!(
        Row,
        r#"with locked as (
               select c.*, coalesce(c.filing_until > now(), false) as filing, wanted.submits
               from unnest($1::text[], $2::uuid[], $3::bool[]) as wanted (facility, id, submits)
                   join claims.claim c on c.facility = wanted.facility and c.id = wanted.id
               order by c.id for update of c
           ), leased as (
               update claims.claim c
               set filing_epoch = c.filing_epoch + 1, filing_until = now() + $4 * interval '1 millisecond'
               from locked l
               where c.facility = l.facility and c.id = l.id and not l.filing
                   and case when l.submits then l.state = 'VALIDATED' else l.state in ('SUBMITTED', 'RESUBMITTED') end
               returning c.id, c.filing_epoch
           )
           select l.id, l.order_id, l.details, l.state, l.cycle, l.id_payer, l.remitter_id, l.rejection, l.version,
               l.submitted_at, coalesce(leased.filing_epoch, l.filing_epoch) as "filing_epoch!", l.filing as "filing!",
               l.created_at, l.updated_at
           from locked l left join leased on leased.id = l.id"#,
        &facilities as &[&str],
        &ids,
        &submits,
        lease_ms as f64,
    )
    .fetch_all(conn)
    .await?;
    let purposes: HashMap<Uuid, Purpose> = requests
        .iter()
        .map(|request| (request.id, request.purpose))
        .collect();
    let mut found = HashMap::new();
    for row in rows {
        let record = Record::try_from(row)?;
        let allowed = purposes
            .get(&record.id)
            .is_some_and(|purpose| purpose.allows(record.state));
        let is_leased = allowed && !record.is_submitting;
        found.insert(record.id, (record, is_leased));
    }
    Ok(found)
}

/// Reverts leases that were acquired in this transaction.
pub async fn revert_leases(conn: &mut PgConnection, claims: &[(&Facility, Uuid)]) -> Result<(), sqlx::Error> {
    let facilities: Vec<_> = claims.iter().map(|(facility, _)| facility.as_str()).collect();
    let ids: Vec<_> = claims.iter().map(|(_, id)| *id).collect();
    sqlx::query!(
        "update claims.claim c set filing_epoch = c.filing_epoch - 1, filing_until = null
         from unnest($1::text[], $2::uuid[]) as leased (facility, id)
         where c.facility = leased.facility and c.id = leased.id",
        &facilities as &[&str],
        &ids,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Identifies one lease of a claim.
#[derive(Clone, Copy, Debug)]
pub struct LeaseKey<'a> {
    /// The claim's facility.
    pub facility: &'a Facility,
    /// The claim.
    pub id: Uuid,
    /// The claim's lease epoch.
    pub epoch: i64,
}

/// The delay before the next call about an undecided claim: `first_ms`, doubled after each attempt.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first delay, in milliseconds.
    pub first_ms: i64,
    /// The largest delay, in milliseconds.
    pub max_ms: i64,
}

/// A lease to be released.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRelease<'a> {
    /// The lease.
    pub lease: LeaseKey<'a>,
    /// The claim's transition; `None`: its state stays as it is, since the post office did not answer or has not decided.
    pub transition: Option<Transition<'a>>,
}

/// The transition of a claim by the post office's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition<'a> {
    /// The state in which the claim was leased.
    pub before: State,
    /// Its new state.
    pub state: State,
    /// The reason of a rejection; empty otherwise.
    pub rejection: &'a str,
    /// The increment of its version.
    pub changes: i64,
}

/// A claim after the release of its lease.
#[derive(Clone, Debug)]
pub struct ReleasedClaim {
    /// The claim.
    pub id: Uuid,
    /// Its version.
    pub version: i64,
    /// The payer's number of the claim. A remittance may have set it since the claim was leased.
    pub id_payer: String,
    /// The sender of its remittances.
    pub remitter_id: String,
    /// When the post office first received it.
    pub submitted_at: Option<OffsetDateTime>,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
    /// Whether remittance lines are parked for it as early.
    pub has_early_lines: bool,
}

/// Releases leases that are still held and returns their claims. The caller has locked the numbers of claims with
/// a transition. A claim that waits for the post office is due again after `backoff`: after the first delay if it
/// was received and is not decided; without an answer after a delay that doubles with each attempt, with a jitter
/// of a tenth so that claims of one outage are not retried together.
pub async fn release_leases(
    conn: &mut PgConnection,
    releases: &[LeaseRelease<'_>],
    backoff: Backoff,
) -> Result<HashMap<Uuid, ReleasedClaim>, sqlx::Error> {
    fn column<'a, T>(releases: &'a [LeaseRelease<'_>], value: impl Fn(LeaseKey<'a>) -> T) -> Vec<T> {
        releases.iter().map(|release| value(release.lease)).collect()
    }
    fn transition<'a, T>(
        releases: &'a [LeaseRelease<'_>],
        value: impl Fn(Transition<'a>) -> T,
    ) -> Vec<Option<T>> {
        releases
            .iter()
            .map(|release| release.transition.map(&value))
            .collect()
    }
    let released = sqlx::query_as!(
        ReleasedClaim,
        r#"with held as (
               select c.facility, c.id, o.new_state, o.new_rejection, o.changes
               from unnest($1::text[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[])
                   as o (facility, id, epoch, old_state, new_state, new_rejection, changes)
                   join claims.claim c on c.facility = o.facility and c.id = o.id
               where c.filing_epoch = o.epoch and c.state = coalesce(o.old_state, c.state)
               order by c.id for update of c
           )
           update claims.claim c
           set state = coalesce(held.new_state, c.state), rejection = coalesce(held.new_rejection, c.rejection),
               version = c.version + coalesce(held.changes, 0), filing_until = null,
               asks = case when held.new_state is null then c.asks + 1 else 0 end,
               updated_at = case when held.new_state is null then c.updated_at else now() end,
               submitted_at = case when held.new_state is null then c.submitted_at
                   else coalesce(c.submitted_at, now()) end,
               next_filing_at = case
                   when held.new_state = 'SUBMITTED' then now() + $8::float8 * interval '1 millisecond'
                   when held.new_state is null and c.state in ('SUBMITTED', 'RESUBMITTED')
                       then now() + least($8 * power(2, least(c.asks, 40)), $9) * (0.9 + random() * 0.2)
                           * interval '1 millisecond'
               end
           from held where c.facility = held.facility and c.id = held.id
           returning c.id, c.version, c.id_payer, c.remitter_id, c.submitted_at, c.updated_at,
               exists (select from claims.parked_line p
                       where p.facility = c.facility and p.provider_id = c.provider_id and p.claim_id = c.claim_id
                           and p.reason = 'EARLY' and p.discarded_at is null) as "has_early_lines!""#,
        &column(releases, |lease| lease.facility.as_str()) as &[&str],
        &column(releases, |lease| lease.id),
        &column(releases, |lease| lease.epoch),
        &transition(releases, |transition| transition.before.as_str()) as &[Option<&str>],
        &transition(releases, |transition| transition.state.as_str()) as &[Option<&str>],
        &transition(releases, |transition| transition.rejection) as &[Option<&str>],
        &transition(releases, |transition| transition.changes) as &[Option<i64>],
        backoff.first_ms as f64,
        backoff.max_ms as f64,
    )
    .fetch_all(conn)
    .await?;
    Ok(released.into_iter().map(|one| (one.id, one)).collect())
}

/// The next cycle of a claim.
#[derive(Clone, Copy, Debug)]
pub struct NewCycle<'a> {
    /// The claim.
    pub id: Uuid,
    /// The number of the new cycle.
    pub cycle: i32,
    /// The new version of the claim.
    pub version: i64,
    /// The content to be submitted.
    pub details: &'a ClaimDetails,
    /// The reason of the resubmission.
    pub resubmission: &'a Resubmission,
}

/// Starts the next cycle. The claim is due for the background worker at once, in case the current call is
/// interrupted.
pub async fn start_cycle(
    conn: &mut PgConnection,
    facility: &Facility,
    next: NewCycle<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with claim as (
             update claims.claim
             set state = 'RESUBMITTED', cycle = $3, version = $4, details = $5, payer_id = $6, rejection = '',
                 next_filing_at = now(), asks = 0, updated_at = now()
             where id = $1
         )
         insert into claims.resubmission (facility, claim, cycle, type, comment, attachment)
         values ($2, $1, $3, $7, $8, $9)",
        next.id,
        facility.as_str(),
        next.cycle,
        next.version,
        next.details.encode_to_vec(),
        next.details.payer_id,
        next.resubmission.r#type,
        next.resubmission.comment,
        next.resubmission.attachment,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A claim to be submitted or queried by the background worker.
#[derive(Clone, Debug)]
pub struct DueClaim {
    /// Its facility.
    pub facility: Facility,
    /// The claim.
    pub id: Uuid,
    /// The payer.
    pub payer_id: String,
}

/// The claims of all facilities that are due, longest due first, at most `limit`, except those of
/// `excluded_payers`.
pub async fn list_due(
    conn: &mut PgConnection,
    limit: i32,
    excluded_payers: &[String],
) -> Result<Vec<DueClaim>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select facility as "facility!", id as "id!", payer_id as "payer_id!"
           from claims.due_filings($1, $2)"#,
        limit,
        excluded_payers,
    )
    .fetch_all(conn)
    .await?;
    // A row that cannot be decoded is skipped, so that it does not block the others.
    Ok(rows
        .into_iter()
        .filter_map(|row| match Facility::new(&row.facility) {
            Ok(facility) => Some(DueClaim {
                facility,
                id: row.id,
                payer_id: row.payer_id,
            }),
            Err(error) => {
                tracing::error!(claim.id = %row.id, error.message = %error, "a claim's facility cannot be read");
                None
            }
        })
        .collect())
}

/// Postpones a claim after a permanent failure by `delay_ms`, so that it does not starve others. Releases the
/// lease with `epoch`, under which it failed; a claim that another call has leased is not changed.
pub async fn postpone(
    conn: &mut PgConnection,
    facility: &Facility,
    id: Uuid,
    epoch: Option<i64>,
    delay_ms: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update claims.claim set next_filing_at = now() + $4 * interval '1 millisecond', filing_until = null
         where facility = $1 and id = $2 and next_filing_at is not null
             and (filing_epoch = $3 or filing_until is null or filing_until <= now())",
        facility.as_str(),
        id,
        epoch,
        delay_ms as f64,
    )
    .execute(conn)
    .await?;
    Ok(())
}

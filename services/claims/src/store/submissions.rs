//! Handing claims to the post office: leases, outcomes, and what is due.

use std::collections::HashMap;

use chassis::Facility;
use prost::Message;
use proto::claims::v1::{ClaimDetails, Resubmission};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Record, Row};
use crate::claim::State;

/// What a claim is leased for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is handed in for the first time.
    Submit,
    /// It is handed in again, or asked after.
    FollowUp,
}

impl Purpose {
    /// Whether a claim in `state` can be leased for this.
    pub fn allows(self, state: State) -> bool {
        match self {
            Purpose::Submit => state == State::Validated,
            Purpose::FollowUp => state.awaits_answer(),
        }
    }
}

/// A claim that is to be leased.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    /// Whose it is.
    pub facility: &'a Facility,
    /// The claim.
    pub id: Uuid,
    /// What for.
    pub purpose: Purpose,
}

/// Locks these claims in the order of their identifiers, and leases for `lease_ms` those that nobody holds and whose state
/// allows it. Answers the claims that there are, with the epochs of their new leases, and whether each was leased;
/// `filing` tells whether somebody else holds it.
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

/// Takes back leases of this transaction, as if there had been none.
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

/// A lease as it was taken.
#[derive(Clone, Copy, Debug)]
pub struct LeaseKey<'a> {
    /// Whose claim it is.
    pub facility: &'a Facility,
    /// The claim.
    pub id: Uuid,
    /// The lease's epoch.
    pub epoch: i64,
}

/// How long a claim waits before the post office is asked again: `first_ms`, and twice as long after each try.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Milliseconds before the second try.
    pub first_ms: i64,
    /// At most so many milliseconds.
    pub max_ms: i64,
}

/// How a lease ends.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRelease<'a> {
    /// The lease.
    pub lease: LeaseKey<'a>,
    /// What the post office has answered; `None`: the claim stays as it is.
    pub transition: Option<Transition<'a>>,
}

/// Where a claim stands after the post office has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition<'a> {
    /// The state in which the claim was leased.
    pub before: State,
    /// Its new state.
    pub state: State,
    /// Why it was rejected; empty otherwise.
    pub rejection: &'a str,
    /// By how much its version is counted up.
    pub changes: i64,
}

/// A claim whose lease has ended.
#[derive(Clone, Debug)]
pub struct ReleasedClaim {
    /// The claim.
    pub id: Uuid,
    /// Its version.
    pub version: i64,
    /// The payer's number; a remittance may have named it since the claim was leased.
    pub id_payer: String,
    /// Who sends its remittances.
    pub remitter_id: String,
    /// When the post office first took it.
    pub submitted_at: Option<OffsetDateTime>,
    /// When it last changed.
    pub updated_at: OffsetDateTime,
    /// Whether remittance lines wait for it.
    pub has_early_lines: bool,
}

/// Ends leases that are still held, and answers their claims. The numbers of those that were filed are locked. A claim that
/// waits for the post office is due again after `backoff`: after its first time once it is filed and not decided; without an
/// answer after a time that doubles with each try, spread by a tenth so that claims of one outage do not come back together.
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

/// What opens a claim's next cycle.
#[derive(Clone, Copy, Debug)]
pub struct NewCycle<'a> {
    /// The claim.
    pub id: Uuid,
    /// Its next cycle.
    pub cycle: i32,
    /// Its new version.
    pub version: i64,
    /// What is claimed now.
    pub details: &'a ClaimDetails,
    /// Why.
    pub resubmission: &'a Resubmission,
}

/// Opens the next cycle: the claim is on its way to the post office again, and due for the background worker should
/// whoever does this be cut short.
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

/// A claim that is to be filed or asked after.
#[derive(Clone, Debug)]
pub struct DueClaim {
    /// Whose it is.
    pub facility: Facility,
    /// The claim.
    pub id: Uuid,
    /// Its payer.
    pub payer_id: String,
}

/// Claims of all facilities that are to be filed or asked after, the longest due first, without those of `excluded_payers`.
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
    // One row that cannot be read keeps no other from its turn.
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

/// Lets a claim whose follow-up fails for good wait for `delay_ms`, so that others have their turn. Ends the lease of
/// `epoch`, under which it failed; a claim that somebody else holds is left alone.
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

//! Handing claims to the post office: leases, outcomes, what is due, and the sandbox's own memory.

use chassis::Facility;
use prost::Message;
use proto::claims::v1::{ClaimDetails, Resubmission};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::claim::State;

/// Where a claim stands after the post office has answered.
#[derive(Clone, Copy, Debug)]
pub struct Filed<'a> {
    /// The claim.
    pub id: Uuid,
    /// Its new state.
    pub state: State,
    /// Why it was rejected; empty otherwise.
    pub rejection: &'a str,
    /// Its new version.
    pub version: i64,
    /// In how many milliseconds the post office is asked again; `None`: it has decided.
    pub ask_again_ms: Option<i64>,
}

/// Takes the claim for `lease_ms`; answers the lease's epoch. The row is locked already, and free.
pub async fn lease(conn: &mut PgConnection, id: Uuid, lease_ms: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        "update claims.claim
         set filing_epoch = filing_epoch + 1, filing_until = now() + $2 * interval '1 millisecond'
         where id = $1 returning filing_epoch",
        id,
        lease_ms as f64,
    )
    .fetch_one(conn)
    .await
}

/// How long a claim waits before the post office is asked again: `first_ms`, and twice as long after each try.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Milliseconds before the second try.
    pub first_ms: i64,
    /// At most so many milliseconds.
    pub longest_ms: i64,
}

/// Gives the claim back without an outcome, if the lease is still held. A claim that waits for the post office is due
/// again after its time, spread by a tenth so that claims of one outage do not come back together.
pub async fn release(
    conn: &mut PgConnection,
    id: Uuid,
    epoch: i64,
    backoff: Backoff,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update claims.claim
         set filing_until = null, asks = asks + 1,
             next_filing_at = case when state in ('SUBMITTED', 'RESUBMITTED')
                 then now() + least($3 * power(2, least(asks, 40)), $4) * (0.9 + random() * 0.2)
                     * interval '1 millisecond' end
         where id = $1 and filing_epoch = $2",
        id,
        epoch,
        backoff.first_ms as f64,
        backoff.longest_ms as f64,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes the outcome and ends the lease.
pub async fn filed(conn: &mut PgConnection, filed: Filed<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update claims.claim
         set state = $2, rejection = $3, version = $4, filing_until = null, asks = 0, updated_at = now(),
             submitted_at = coalesce(submitted_at, now()), next_filing_at = now() + $5 * interval '1 millisecond'
         where id = $1",
        filed.id,
        filed.state.as_str(),
        filed.rejection,
        filed.version,
        filed.ask_again_ms.map(|ms| ms as f64),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What opens a claim's next cycle.
#[derive(Clone, Copy, Debug)]
pub struct Reopening<'a> {
    /// The claim.
    pub id: Uuid,
    /// Its next cycle.
    pub cycle: i32,
    /// Its new version.
    pub version: i64,
    /// What is claimed now.
    pub details: &'a ClaimDetails,
    /// Why.
    pub why: &'a Resubmission,
}

/// Opens the next cycle: the claim is on its way to the post office again, and due for the background worker should
/// whoever does this be cut short.
pub async fn reopen(
    conn: &mut PgConnection,
    facility: &Facility,
    next: Reopening<'_>,
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
        next.why.r#type,
        next.why.comment,
        next.why.attachment,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A claim that is to be filed or asked after.
#[derive(Clone, Debug)]
pub struct Due {
    /// Whose it is.
    pub facility: Facility,
    /// The claim.
    pub id: Uuid,
    /// Its payer.
    pub payer_id: String,
}

/// Claims of all facilities that are to be filed or asked after, the longest due first, without those of `busy_payers`.
pub async fn due(
    conn: &mut PgConnection,
    at_most: i32,
    busy_payers: &[String],
) -> Result<Vec<Due>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select facility as "facility!", id as "id!", payer_id as "payer_id!"
           from claims.due_filings($1, $2)"#,
        at_most,
        busy_payers,
    )
    .fetch_all(conn)
    .await?;
    // One row that cannot be read keeps no other from its turn.
    Ok(rows
        .into_iter()
        .filter_map(|row| match Facility::new(&row.facility) {
            Ok(facility) => Some(Due {
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

/// Lets a claim whose follow-up fails for good wait for `pause_ms`, so that others have their turn.
pub async fn set_aside(conn: &mut PgConnection, id: Uuid, pause_ms: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update claims.claim set next_filing_at = now() + $2 * interval '1 millisecond', filing_until = null
         where id = $1 and next_filing_at is not null",
        id,
        pause_ms as f64,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// One call of the sandbox: how many there were with this one, and for how many milliseconds it has been filed.
#[derive(Clone, Copy, Debug)]
pub struct SandboxCall {
    /// Calls for this submission.
    pub calls: i32,
    /// Since it was first taken.
    pub filed_ms: i64,
}

/// Counts a call of the sandbox post office; from call `takes_from` on the submission is filed, once.
pub async fn sandbox_call(
    conn: &mut PgConnection,
    facility: &Facility,
    submission_id: Uuid,
    takes_from: i32,
) -> Result<SandboxCall, sqlx::Error> {
    sqlx::query_as!(
        SandboxCall,
        r#"insert into claims.sandbox_filing as filing (facility, submission_id, filed_at)
           values ($1, $2, case when $3 <= 1 then now() end)
           on conflict (facility, submission_id) do update
           set calls = filing.calls + 1,
               filed_at = coalesce(filing.filed_at, case when $3 <= filing.calls + 1 then now() end)
           returning calls, coalesce(extract(epoch from now() - filed_at) * 1000, 0)::bigint as "filed_ms!""#,
        facility.as_str(),
        submission_id,
        takes_from,
    )
    .fetch_one(conn)
    .await
}

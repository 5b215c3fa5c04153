//! The state of the sandbox post office.

use std::collections::HashMap;

use chassis::Facility;
use sqlx::PgConnection;
use uuid::Uuid;

/// A call with a submission.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its facility.
    pub facility: &'a Facility,
    /// The submission.
    pub submission_id: Uuid,
    /// The number of the call, from 1, that files the submission.
    pub accepted_from_call: i32,
}

/// The state of a submission after a call.
#[derive(Clone, Copy, Debug)]
pub struct CallCount {
    /// The submission.
    pub submission_id: Uuid,
    /// The number of calls including this one.
    pub calls: i32,
    /// Milliseconds since it was filed; 0 if it is not.
    pub filed_ms: i64,
}

/// Counts calls. Each must be for a different submission.
pub async fn count_calls(
    conn: &mut PgConnection,
    calls: &[Call<'_>],
) -> Result<HashMap<Uuid, CallCount>, sqlx::Error> {
    let facilities: Vec<_> = calls.iter().map(|call| call.facility.as_str()).collect();
    let submissions: Vec<_> = calls.iter().map(|call| call.submission_id).collect();
    let takes_from: Vec<_> = calls.iter().map(|call| call.accepted_from_call).collect();
    let counted = sqlx::query_as!(
        CallCount,
        r#"with call as (
               select * from unnest($1::text[], $2::uuid[], $3::int[]) as call (facility, submission_id, takes_from)
           )
           insert into claims.sandbox_filing as filing (facility, submission_id, filed_at)
           select facility, submission_id, case when takes_from <= 1 then now() end from call
           order by facility, submission_id
           on conflict (facility, submission_id) do update
           set calls = filing.calls + 1,
               filed_at = coalesce(filing.filed_at, (
                   select now() from call
                   where call.facility = excluded.facility and call.submission_id = excluded.submission_id
                       and call.takes_from <= filing.calls + 1))
           returning submission_id, calls,
               coalesce(extract(epoch from now() - filed_at) * 1000, 0)::bigint as "filed_ms!""#,
        &facilities as &[&str],
        &submissions,
        &takes_from,
    )
    .fetch_all(conn)
    .await?;
    Ok(counted.into_iter().map(|one| (one.submission_id, one)).collect())
}

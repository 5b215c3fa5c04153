//! Submission of a claim to the post office: lease the claim, call the post office outside of any transaction,
//! record the outcome. If a call is interrupted in between, its lease expires and the next one submits the same
//! submission id again, which the post office files once.

pub mod leases;
pub mod outcomes;
mod verdict;

use std::time::Duration;

use chassis::{Facility, idempotency};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    app::App,
    claim::State,
    config,
    error::Error,
    post_office::{Submission, Verdict},
    request::{self, Request},
    store::{Record, submissions::LeaseKey},
};

/// Time by which a lease exceeds the timeout of the call that it is acquired for.
const LEASE_MARGIN: Duration = Duration::from_secs(1);
/// The interval between attempts to lease a claim that another call holds.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The duration of a claim's lease, in milliseconds.
pub fn lease_ms(settings: &config::PostOffice) -> i64 {
    i64::try_from((settings.timeout() + LEASE_MARGIN).as_millis()).unwrap_or(i64::MAX)
}

/// The exclusive right to submit one claim.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The claim when it was leased. Its lease epoch is this lease's.
    record: Record,
    submission: Submission,
}

impl Lease {
    /// The lease of a claim that was leased in the database.
    pub fn new(facility: &Facility, record: Record) -> Lease {
        let submission = Submission {
            id: Uuid::new_v5(&record.id, &record.cycle.to_be_bytes()),
            facility: facility.clone(),
            details: record.details.clone(),
        };
        Lease { record, submission }
    }

    /// The claim's id.
    pub fn claim(&self) -> Uuid {
        self.record.id
    }

    /// The fencing epoch of the lease. A write with an older epoch is refused.
    pub fn epoch(&self) -> i64 {
        self.record.lease_epoch
    }

    /// The claim's state when it was leased.
    pub fn state(&self) -> State {
        self.record.state
    }

    fn facility(&self) -> &Facility {
        &self.submission.facility
    }

    fn key(&self) -> LeaseKey<'_> {
        LeaseKey {
            facility: self.facility(),
            id: self.claim(),
            epoch: self.epoch(),
        }
    }
}

/// Calls the post office, within the timeout of the settings and the caller's deadline. If the call fails, the
/// lease is released.
///
/// # Errors
/// [`Error::PostOffice`] when the post office did not answer.
pub async fn call_post_office(app: &App, lease: &Lease) -> Result<Verdict, Error> {
    let bound = app.post_office_settings.timeout();
    let caller = mesh::Context::current().and_then(|context| context.remaining());
    let timeout = caller.map_or(bound, |caller| caller.min(bound));
    let call = match lease.state() {
        State::Submitted => app.post_office.query(&lease.submission),
        _ => app.post_office.submit(&lease.submission),
    };
    let problem = match tokio::time::timeout(timeout, call).await {
        Ok(Ok(verdict)) => return Ok(verdict),
        Ok(Err(unavailable)) => unavailable.0,
        Err(_) => "it did not answer in time".to_owned(),
    };
    app.outcomes.release(lease.clone()).await?;
    Err(Error::PostOffice(problem))
}

/// How long a request waits for a claim that another call is submitting.
pub fn wait_deadline(app: &App) -> Instant {
    let latest = Instant::now() + app.post_office_settings.timeout() + LEASE_MARGIN;
    let Some(deadline) = request::deadline() else {
        return latest;
    };
    // A tenth of the remaining time is reserved for sending the response.
    let caller = deadline.saturating_duration_since(Instant::now());
    latest.min(Instant::now() + caller * 9 / 10)
}

/// Waits one poll interval for another execution of the same request to store its response. `None` if the caller
/// should try to lease the claim again.
///
/// # Errors
/// [`Error::SubmissionInProgress`] after `deadline`.
pub async fn wait_for_response(
    app: &App,
    request: Request<'_>,
    deadline: Instant,
) -> Result<Option<Vec<u8>>, Error> {
    if Instant::now() >= deadline {
        return Err(Error::SubmissionInProgress);
    }
    Ok(idempotency::wait_for_response(
        &app.database,
        request.facility,
        request.key,
        POLL_INTERVAL,
        deadline,
    )
    .await?)
}

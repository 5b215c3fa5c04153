//! Handing a claim to the post office: lease it, make the call outside of any transaction, write down what came of it. A call
//! that is cut short in between loses its lease, and the next one hands the same submission in again, which the post office
//! files once.

pub mod leases;
pub mod outcomes;
mod verdict;

use std::time::Duration;

use chassis::{Facility, idempotency};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    claim::State,
    config,
    desk::{self, Asked, Desk},
    error::Error,
    post_office::{Submission, Verdict},
    store::{Record, filings::Held},
};

/// How long a lease outlasts the call that it is taken for.
const LEASE_MARGIN: Duration = Duration::from_secs(1);
/// How long a look at somebody else's lease is put off.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a claim is leased, in milliseconds.
pub fn lease_ms(settings: &config::PostOffice) -> i64 {
    i64::try_from((settings.timeout() + LEASE_MARGIN).as_millis()).unwrap_or(i64::MAX)
}

/// The right to hand one claim in.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The claim as it was leased; its epoch is the lease's.
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

    /// The claim.
    pub fn claim(&self) -> Uuid {
        self.record.id
    }

    /// Counts the claim's leases; a late holder of an older one is refused.
    pub fn epoch(&self) -> i64 {
        self.record.filing_epoch
    }

    /// The claim's state when it was leased.
    pub fn state(&self) -> State {
        self.record.state
    }

    fn facility(&self) -> &Facility {
        &self.submission.facility
    }

    fn held(&self) -> Held<'_> {
        Held {
            facility: self.facility(),
            id: self.claim(),
            epoch: self.epoch(),
        }
    }
}

/// Calls the post office, within the setting's time and the caller's. Without an answer the claim is given back.
///
/// # Errors
/// [`Error::PostOffice`] when there was none.
pub async fn hand_in(desk: &Desk, lease: &Lease) -> Result<Verdict, Error> {
    let caller = mesh::Context::current().and_then(|context| context.remaining());
    let patience = caller.map_or(desk.filing.timeout(), |caller| caller.min(desk.filing.timeout()));
    let call = match lease.state() {
        State::Submitted => desk.post_office.ask(&lease.submission),
        _ => desk.post_office.file(&lease.submission),
    };
    let problem = match tokio::time::timeout(patience, call).await {
        Ok(Ok(verdict)) => return Ok(verdict),
        Ok(Err(unavailable)) => unavailable.0,
        Err(_) => "it did not answer in time".to_owned(),
    };
    desk.outcomes.release(lease.clone()).await?;
    Err(Error::PostOffice(problem))
}

/// Until when a request waits for a claim that another call is handing in.
pub fn patience(desk: &Desk) -> Instant {
    let most = Instant::now() + desk.filing.timeout() + LEASE_MARGIN;
    let Some(deadline) = desk::deadline() else {
        return most;
    };
    // A tenth is kept back for the answer's own way.
    let caller = deadline.saturating_duration_since(Instant::now());
    most.min(Instant::now() + caller * 9 / 10)
}

/// Waits a moment for the same request's answer by another call; none if the claim should be looked at again.
///
/// # Errors
/// [`Error::FilingInProgress`] when `until` has passed.
pub async fn wait(desk: &Desk, asked: Asked<'_>, until: Instant) -> Result<Option<Vec<u8>>, Error> {
    if Instant::now() >= until {
        return Err(Error::FilingInProgress);
    }
    Ok(idempotency::wait(&desk.database, asked.facility, asked.key, LOOK_AGAIN, until).await?)
}

//! Handing a claim to the post office: take it for a while, make the call outside of any transaction, write down what
//! came of it. Whoever is cut short in between loses the lease, and the next one hands the same submission in again,
//! which the post office files once.

use std::time::Duration;

use chassis::{Facility, idempotency};
use events::Event;
use proto::claims::v1::{ClaimAccepted, ClaimRejected, ClaimSubmitted};
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    announce::event,
    booking,
    claim::{State, Step},
    desk::{Asked, Desk},
    error::Error,
    post_office::{Submission, Verdict},
    store::{self, Record, filings},
};

/// How long a lease outlasts the call that it is taken for.
const LEASE_MARGIN: Duration = Duration::from_secs(1);
/// How long a look at somebody else's lease is put off.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The right to hand one claim in.
#[derive(Clone, Debug)]
pub struct Lease {
    id: Uuid,
    epoch: i64,
    state: State,
    submission: Submission,
}

impl Lease {
    /// The claim.
    pub fn claim(&self) -> Uuid {
        self.id
    }
}

/// Takes a claim that is locked, and that nobody holds.
pub async fn lease(
    conn: &mut PgConnection,
    desk: &Desk,
    facility: &Facility,
    record: &Record,
) -> Result<Lease, Error> {
    let epoch = filings::lease(conn, record.id, millis(desk.filing.timeout() + LEASE_MARGIN)).await?;
    Ok(Lease {
        id: record.id,
        epoch,
        state: record.state,
        submission: Submission {
            id: Uuid::new_v5(&record.id, &record.cycle.to_be_bytes()),
            facility: facility.clone(),
            details: record.details.clone(),
        },
    })
}

/// Calls the post office, within the setting's time and the caller's. Without an answer the claim is given back.
///
/// # Errors
/// [`Error::PostOffice`] when there was none.
pub async fn hand_in(desk: &Desk, facility: &Facility, lease: &Lease) -> Result<Verdict, Error> {
    let caller = mesh::Context::current().and_then(|context| context.remaining());
    let patience = caller.map_or(desk.filing.timeout(), |caller| caller.min(desk.filing.timeout()));
    let call = match lease.state {
        State::Submitted => desk.post_office.ask(&lease.submission),
        _ => desk.post_office.file(&lease.submission),
    };
    let problem = match tokio::time::timeout(patience, call).await {
        Ok(Ok(verdict)) => return Ok(verdict),
        Ok(Err(unavailable)) => unavailable.0,
        Err(_) => "it did not answer in time".to_owned(),
    };
    give_back(desk, facility, lease).await?;
    Err(Error::PostOffice(problem))
}

/// Ends the lease without an outcome. The post office is asked again after a time that doubles with each try.
pub async fn give_back(desk: &Desk, facility: &Facility, lease: &Lease) -> Result<(), Error> {
    let mut tx = desk.database.begin(facility).await?;
    filings::release(
        &mut tx,
        lease.id,
        lease.epoch,
        filings::Backoff {
            first_ms: desk.filing.ask_again_ms.cast_signed(),
            longest_ms: desk.filing.ask_again_max_ms.cast_signed(),
        },
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Writes down the verdict, and books the lines that have waited for the claim or for activities that it has now. Answers
/// the events to append.
///
/// # Errors
/// [`Error::FilingInProgress`] when the lease was lost to somebody else, [`Error::WrongState`] when the claim was
/// withdrawn in the meantime.
pub async fn settle(
    conn: &mut PgConnection,
    desk: &Desk,
    facility: &Facility,
    lease: &Lease,
    verdict: Verdict,
) -> Result<Vec<Event>, Error> {
    let details = &lease.submission.details;
    let number = store::parked::Number {
        provider_id: &details.provider_id,
        claim_id: &details.claim_id,
    };
    store::parked::lock_number(conn, facility.as_str(), number).await?;
    let found = store::lock(conn, lease.id).await?;
    let mut record = found.ok_or_else(|| Error::NoSuchClaim(lease.id.to_string()))?;
    if record.state == State::Withdrawn {
        tracing::warn!(claim.id = %record.id, "a claim was withdrawn while it was handed to the post office");
        record.state.allows(Step::Submit)?;
    }
    if record.filing_epoch != lease.epoch || record.state != lease.state {
        return Err(Error::FilingInProgress);
    }
    let events = decided(facility, &mut record, verdict);
    let pending = record.state == State::Submitted;
    filings::filed(
        conn,
        filings::Filed {
            id: record.id,
            state: record.state,
            rejection: &record.rejection,
            version: record.version,
            ask_again_ms: pending.then_some(desk.filing.ask_again_ms.cast_signed()),
        },
    )
    .await?;
    let matched = booking::unpark(conn, facility, &mut record).await?;
    Ok(events.into_iter().chain(matched).collect())
}

/// What the verdict makes of the claim.
fn decided(facility: &Facility, record: &mut Record, verdict: Verdict) -> Vec<Event> {
    let (claim_id, order_id, cycle) = (record.id.to_string(), record.order_id.to_string(), record.cycle);
    let mut events = Vec::new();
    if record.state != State::Submitted {
        record.version += 1;
        let submitted = ClaimSubmitted {
            claim_id: claim_id.clone(),
            order_id: order_id.clone(),
            cycle,
        };
        events.push(event(facility, record.id, record.version, &submitted));
        record.state = State::Submitted;
    }
    match verdict {
        Verdict::Pending => {}
        Verdict::Accepted => {
            record.state = State::Accepted;
            record.version += 1;
            let accepted = ClaimAccepted {
                claim_id,
                order_id,
                cycle,
            };
            events.push(event(facility, record.id, record.version, &accepted));
        }
        Verdict::Rejected(reason) => {
            record.state = State::Rejected;
            record.version += 1;
            record.rejection.clone_from(&reason);
            let rejected = ClaimRejected {
                claim_id,
                order_id,
                reason,
            };
            events.push(event(facility, record.id, record.version, &rejected));
        }
    }
    events
}

/// Until when a request waits for a claim that somebody else is handing in.
pub fn patience(desk: &Desk) -> Instant {
    let caller = mesh::Context::current().and_then(|context| context.remaining());
    let most = desk.filing.timeout() + LEASE_MARGIN;
    // A tenth is kept back for the answer's own way.
    Instant::now() + caller.map_or(most, |caller| (caller * 9 / 10).min(most))
}

/// Waits a moment for the same request's answer by somebody else; none if the claim should be looked at again.
///
/// # Errors
/// [`Error::FilingInProgress`] when `until` has passed.
pub async fn wait(desk: &Desk, asked: Asked<'_>, until: Instant) -> Result<Option<Vec<u8>>, Error> {
    if Instant::now() >= until {
        return Err(Error::FilingInProgress);
    }
    Ok(idempotency::wait(&desk.database, asked.facility, asked.key, LOOK_AGAIN, until).await?)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

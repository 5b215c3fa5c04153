//! Acquires leases of claims. Concurrent requests share a transaction.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Facility,
    audit::{self, Origin},
    batch::{Batcher, Command, Limits},
    idempotency::{self, Key, NewKey},
    postgres::Database,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Lease, lease_ms};
use crate::{
    claim::Step,
    config,
    error::Error,
    request,
    store::{
        Record,
        submissions::{self, Purpose},
    },
};

/// A request for the lease of a claim.
#[derive(Debug)]
pub struct LeaseRequest {
    facility: Facility,
    id: Uuid,
    /// The request that submits the claim; `None` for the background worker.
    submit: Option<(Key, Origin)>,
}

impl LeaseRequest {
    /// A lease for the current call, which submits the claim.
    pub fn for_submission(facility: &Facility, id: Uuid, key: &Key) -> LeaseRequest {
        LeaseRequest {
            submit: Some((key.clone(), Origin::current())),
            ..LeaseRequest::for_follow_up(facility, id)
        }
    }

    /// A lease for the background worker, for a claim that the post office has not decided.
    pub fn for_follow_up(facility: &Facility, id: Uuid) -> LeaseRequest {
        LeaseRequest {
            facility: facility.clone(),
            id,
            submit: None,
        }
    }

    fn to_row(&self) -> submissions::LeaseRequest<'_> {
        submissions::LeaseRequest {
            facility: &self.facility,
            id: self.id,
            purpose: match self.submit {
                Some(_) => Purpose::Submit,
                None => Purpose::FollowUp,
            },
        }
    }

    fn new_key(&self) -> Option<NewKey<'_>> {
        let (key, _) = self.submit.as_ref()?;
        Some(NewKey {
            facility: &self.facility,
            key,
            resource_id: self.id,
            response: None,
        })
    }
}

/// The result of a request for a lease.
#[derive(Debug)]
pub enum Acquisition {
    /// The claim is leased to the caller.
    Leased(Box<Lease>),
    /// Another call holds the lease, or the claim needs no follow-up any more.
    Unavailable,
    /// The stored response to an earlier execution of the same request.
    Replayed(Vec<u8>),
}

/// Acquires leases in batches.
pub struct AcquireLeases {
    database: Database,
    lease_ms: i64,
}

/// Acquires leases of claims. Cheap to clone.
#[derive(Clone)]
pub struct Leases(Batcher<AcquireLeases>);

impl Leases {
    /// Creates a batcher of leases of the claims in `database`.
    pub fn new(database: &Database, settings: &config::PostOffice, tasks: chassis::Tasks) -> Leases {
        let command = AcquireLeases {
            database: database.clone(),
            lease_ms: lease_ms(settings),
        };
        Leases(Batcher::new(command, Limits::default(), tasks))
    }

    /// Leases the claim and claims the request's idempotency key in the same transaction. A key that exists
    /// already belongs to an execution that was interrupted or still runs; the call that gets the lease continues
    /// it.
    ///
    /// # Errors
    /// [`Error::ClaimNotFound`], [`Error::WrongState`]; nothing has changed then.
    pub async fn acquire(&self, request: LeaseRequest) -> Result<Acquisition, Error> {
        self.0
            .submit(request, request::deadline())
            .await
            .map_err(Error::from)?
    }
}

impl Command for AcquireLeases {
    type Item = LeaseRequest;
    type Outcome = Result<Acquisition, Error>;
    type Error = Error;

    fn aggregate(&self, request: &LeaseRequest) -> Uuid {
        request.id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, requests: &[Arc<LeaseRequest>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = requests.iter().map(|request| &request.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let acquisitions = acquire(&mut tx, requests, self.lease_ms).await?;
        tx.commit().await?;
        Ok(acquisitions)
    }
}

async fn acquire(
    conn: &mut PgConnection,
    requests: &[Arc<LeaseRequest>],
    lease_ms: i64,
) -> Result<Vec<Result<Acquisition, Error>>, Error> {
    // The rows are locked first: a call that held one of them before has stored its response by now.
    let rows: Vec<_> = requests.iter().map(|request| request.to_row()).collect();
    let mut found = submissions::acquire_leases(conn, &rows, lease_ms).await?;
    let is_leased = |request: &LeaseRequest| found.get(&request.id).is_some_and(|(_, is_leased)| *is_leased);
    let (leased, others): (Vec<&LeaseRequest>, Vec<&LeaseRequest>) = requests
        .iter()
        .map(Arc::as_ref)
        .partition(|request| is_leased(request));
    let mut keys = claim_keys(conn, &leased, &others).await?;
    let mut acquisitions = Vec::with_capacity(requests.len());
    let mut unneeded = Vec::new();
    for request in requests {
        let claim = found.remove(&request.id);
        let is_leased = claim.as_ref().is_some_and(|(_, is_leased)| *is_leased);
        let acquisition = acquisition(request, claim, keys.remove(&request.id));
        if is_leased && !matches!(acquisition, Ok(Acquisition::Leased(_))) {
            unneeded.push((&request.facility, request.id));
        }
        acquisitions.push(acquisition);
    }
    if !unneeded.is_empty() {
        submissions::revert_leases(conn, &unneeded).await?;
    }
    Ok(acquisitions)
}

/// The state of an idempotency key that was claimed before.
type KeyState = Result<idempotency::KeyState, idempotency::Error>;

/// Claims the idempotency keys of requests that got their lease. Returns the states of the keys that were
/// claimed before, by claim id.
async fn claim_keys(
    conn: &mut PgConnection,
    leased: &[&LeaseRequest],
    others: &[&LeaseRequest],
) -> Result<HashMap<Uuid, KeyState>, Error> {
    let requests: Vec<_> = leased.iter().filter_map(|request| request.new_key()).collect();
    let mut claimed = Vec::new();
    if !requests.is_empty() {
        claimed = idempotency::acquire_all(conn, &requests).await?;
    }
    let is_new: HashMap<Uuid, bool> = requests
        .iter()
        .zip(claimed)
        .map(|(request, is_new)| (request.resource_id, is_new))
        .collect();
    let is_new = |request: &LeaseRequest| is_new.get(&request.id) == Some(&true);
    // The effects of the transaction are audited for the call that has claimed the key.
    let origins = leased
        .iter()
        .filter(|request| is_new(request))
        .filter_map(|request| request.submit.as_ref().map(|(_, origin)| origin));
    audit::record_effects(conn, origins).await?;
    let repeated: Vec<_> = [leased, others]
        .concat()
        .into_iter()
        .filter(|request| !is_new(request))
        .filter_map(|request| request.new_key())
        .collect();
    if repeated.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<_> = repeated
        .iter()
        .map(|request| (request.facility, request.key))
        .collect();
    let found = idempotency::find(conn, &keys).await?;
    Ok(repeated
        .iter()
        .zip(found)
        .filter_map(|(request, state)| Some((request.resource_id, state?)))
        .collect())
}

/// The result for one request, from its claim and from the state of its key.
fn acquisition(
    request: &LeaseRequest,
    claim: Option<(Record, bool)>,
    key: Option<KeyState>,
) -> Result<Acquisition, Error> {
    if let Some(idempotency::KeyState::Completed(bytes)) = key.transpose()? {
        return Ok(Acquisition::Replayed(bytes));
    }
    let (record, is_leased) = claim.ok_or_else(|| Error::ClaimNotFound(request.id.to_string()))?;
    if is_leased {
        return Ok(Acquisition::Leased(Box::new(Lease::new(
            &request.facility,
            record,
        ))));
    }
    if request.submit.is_some() && !record.is_submitting {
        record.state.allows(Step::Submit)?;
    }
    Ok(Acquisition::Unavailable)
}

//! Claims are leased, those that are asked for at the same time in one transaction.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Facility,
    audit::{self, Origin},
    batch::{Batcher, Command, Limits},
    idempotency::{self, Key, Request},
    postgres::Database,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Lease, lease_ms};
use crate::{
    claim::Step,
    config, desk,
    error::Error,
    store::{
        Record,
        filings::{self, Purpose},
    },
};

/// A claim that is to be leased.
#[derive(Debug)]
pub struct Wanted {
    facility: Facility,
    id: Uuid,
    /// The request that wants to submit it; none when it is followed up.
    request: Option<(Key, Origin)>,
}

impl Wanted {
    /// The claim that the call that runs is to submit.
    pub fn submitted(facility: &Facility, id: Uuid, key: &Key) -> Wanted {
        Wanted {
            request: Some((key.clone(), Origin::current())),
            ..Wanted::followed_up(facility, id)
        }
    }

    /// A claim that the post office owes an answer.
    pub fn followed_up(facility: &Facility, id: Uuid) -> Wanted {
        Wanted {
            facility: facility.clone(),
            id,
            request: None,
        }
    }

    fn row(&self) -> filings::Wanted<'_> {
        filings::Wanted {
            facility: &self.facility,
            id: self.id,
            purpose: match self.request {
                Some(_) => Purpose::Submit,
                None => Purpose::FollowUp,
            },
        }
    }

    fn request(&self) -> Option<Request<'_>> {
        let (key, _) = self.request.as_ref()?;
        Some(Request {
            facility: &self.facility,
            key,
            resource_id: self.id,
            answer: None,
        })
    }
}

/// Whose turn it is.
#[derive(Debug)]
pub enum Turn {
    /// The claim is leased.
    Ours(Box<Lease>),
    /// Another call holds it, or it needs no following up any more.
    Others,
    /// The request was answered before, with these bytes.
    Answered(Vec<u8>),
}

/// Leases claims.
pub struct TakeLeases {
    database: Database,
    lease_ms: i64,
}

/// Where claims are leased. Cheap to clone.
#[derive(Clone)]
pub struct Leases(Batcher<TakeLeases>);

impl Leases {
    /// Leases of claims in `database`.
    pub fn new(database: &Database, settings: &config::PostOffice, tasks: chassis::Tasks) -> Leases {
        let command = TakeLeases {
            database: database.clone(),
            lease_ms: lease_ms(settings),
        };
        Leases(Batcher::new(command, Limits::default(), tasks))
    }

    /// Leases the claim, and claims the request's key with it. A key that is there already belongs to a try that was cut short
    /// or is going on: the call that gets the lease carries on.
    ///
    /// # Errors
    /// [`Error::NoSuchClaim`], [`Error::WrongState`]; nothing has changed then.
    pub async fn take(&self, wanted: Wanted) -> Result<Turn, Error> {
        self.0
            .submit(wanted, desk::deadline())
            .await
            .map_err(Error::from)?
    }
}

impl Command for TakeLeases {
    type Item = Wanted;
    type Outcome = Result<Turn, Error>;
    type Error = Error;

    fn aggregate(&self, wanted: &Wanted) -> Uuid {
        wanted.id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, wanted: &[Arc<Wanted>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = wanted.iter().map(|wanted| &wanted.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let turns = take(&mut tx, wanted, self.lease_ms).await?;
        tx.commit().await?;
        Ok(turns)
    }
}

async fn take(
    conn: &mut PgConnection,
    wanted: &[Arc<Wanted>],
    lease_ms: i64,
) -> Result<Vec<Result<Turn, Error>>, Error> {
    // The rows come first: whatever held one of them has stored its answer by the time it is ours.
    let rows: Vec<_> = wanted.iter().map(|wanted| wanted.row()).collect();
    let mut found = filings::lease(conn, &rows, lease_ms).await?;
    let is_leased = |wanted: &Wanted| found.get(&wanted.id).is_some_and(|(_, is_leased)| *is_leased);
    let (leased, others): (Vec<&Wanted>, Vec<&Wanted>) = wanted
        .iter()
        .map(Arc::as_ref)
        .partition(|wanted| is_leased(wanted));
    let mut known = claim_keys(conn, &leased, &others).await?;
    let mut turns = Vec::with_capacity(wanted.len());
    let mut undone = Vec::new();
    for wanted in wanted {
        let claim = found.remove(&wanted.id);
        let is_leased = claim.as_ref().is_some_and(|(_, is_leased)| *is_leased);
        let turn = turn(wanted, claim, known.remove(&wanted.id));
        if is_leased && !matches!(turn, Ok(Turn::Ours(_))) {
            undone.push((&wanted.facility, wanted.id));
        }
        turns.push(turn);
    }
    if !undone.is_empty() {
        filings::undo_leases(conn, &undone).await?;
    }
    Ok(turns)
}

/// What is known of a request's key.
type Known = Result<idempotency::Claim, idempotency::Error>;

/// Claims the keys of requests whose claim was leased. Answers what is known of the keys that were claimed before, by the
/// requests' claims.
async fn claim_keys(
    conn: &mut PgConnection,
    leased: &[&Wanted],
    others: &[&Wanted],
) -> Result<HashMap<Uuid, Known>, Error> {
    let requests: Vec<_> = leased.iter().filter_map(|wanted| wanted.request()).collect();
    let mut claimed = Vec::new();
    if !requests.is_empty() {
        claimed = idempotency::claim_all(conn, &requests).await?;
    }
    let is_new: HashMap<Uuid, bool> = requests
        .iter()
        .zip(claimed)
        .map(|(request, is_new)| (request.resource_id, is_new))
        .collect();
    let is_new = |wanted: &Wanted| is_new.get(&wanted.id) == Some(&true);
    // What the key's transaction does, it does for the call that has claimed it.
    let origins = leased
        .iter()
        .filter(|wanted| is_new(wanted))
        .filter_map(|wanted| wanted.request.as_ref().map(|(_, origin)| origin));
    audit::record_effects(conn, origins).await?;
    let repeated: Vec<_> = [leased, others]
        .concat()
        .into_iter()
        .filter(|wanted| !is_new(wanted))
        .filter_map(|wanted| wanted.request())
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
        .filter_map(|(request, known)| Some((request.resource_id, known?)))
        .collect())
}

/// What a claim as it was found, and what is known of the request, mean for the call.
fn turn(wanted: &Wanted, claim: Option<(Record, bool)>, known: Option<Known>) -> Result<Turn, Error> {
    if let Some(idempotency::Claim::Answered(answer)) = known.transpose()? {
        return Ok(Turn::Answered(answer));
    }
    let (record, is_leased) = claim.ok_or_else(|| Error::NoSuchClaim(wanted.id.to_string()))?;
    if is_leased {
        return Ok(Turn::Ours(Box::new(Lease::new(&wanted.facility, record))));
    }
    if wanted.request.is_some() && !record.filing {
        record.state.allows(Step::Submit)?;
    }
    Ok(Turn::Others)
}

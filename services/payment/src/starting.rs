//! The first transaction of requests: claims their keys, changes their payments, and writes down what is wanted of the
//! processor. Requests that come at the same time share it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chassis::{
    audit,
    batch::{self, Batcher, Limits},
    idempotency::{self, Claim},
    postgres::Database,
};
use events::Outbox;
use prost::Message;
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    changes::{Changes, write},
    command::{Found, Intent},
    desk::{Answer, Request, views},
    error::Error,
    operation::Operation,
    store::{
        locks::{self, Begun, Locked, Target},
        payments,
    },
};

/// What the first transaction has led to.
#[derive(Debug)]
pub enum Started {
    /// The request is done, or was before.
    Answered(Answer),
    /// The processor is to be asked; the operation is leased to the caller.
    Wanted(Operation),
    /// The request came before, and began with this operation.
    Known(Uuid),
    /// Another request of the same transaction has changed the payment. Nothing was done; once more.
    Again,
}

/// Carries the first transactions out.
pub struct Starting {
    database: Database,
    outbox: Outbox,
}

/// Where requests are handed in.
pub type Starter = Batcher<Starting>;

impl Starting {
    /// Where requests on `database` are handed in.
    pub fn batcher(database: &Database, outbox: &Outbox, tasks: chassis::Tasks) -> Starter {
        let starting = Self {
            database: database.clone(),
            outbox: outbox.clone(),
        };
        Batcher::new(starting, Limits::default(), tasks)
    }
}

impl batch::Command for Starting {
    type Item = Intent;
    type Outcome = Result<Started, Error>;
    type Error = Error;

    fn aggregate(&self, intent: &Intent) -> Uuid {
        match intent.command.target() {
            Target::Payment(id) | Target::Of(id, _) | Target::Order(id) => id,
        }
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, intents: &[Arc<Intent>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = intents.iter().map(|intent| &intent.request.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let outcomes = Slice::new(intents).start(&mut tx).await?;
        tx.commit().await?;
        self.outbox.wake();
        for (intent, outcome) in intents.iter().zip(&outcomes) {
            if let Ok(Started::Answered(_)) = outcome {
                idempotency::announce(&self.database, &intent.request.facility, &intent.request.key);
            }
        }
        Ok(outcomes)
    }
}

/// The intents of a transaction, and what has come of each so far.
struct Slice<'a> {
    intents: &'a [Arc<Intent>],
    /// In the order of the intents.
    decided: Vec<Decided>,
}

enum Decided {
    /// Its payment is looked at next.
    Open,
    /// It made its payment.
    Created(Changes),
    Accepted(Changes),
    Refused(Error),
    /// This is what the same request has begun before.
    Late(Begun),
    Again,
}

impl<'a> Slice<'a> {
    fn new(intents: &'a [Arc<Intent>]) -> Self {
        Self {
            intents,
            decided: intents.iter().map(|_| Decided::Open).collect(),
        }
    }

    async fn start(mut self, conn: &mut PgConnection) -> Result<Vec<Result<Started, Error>>, Error> {
        self.create(conn).await?;
        self.decide(conn).await?;
        self.keep(conn).await
    }

    /// Makes the payments that are not there yet.
    async fn create(&mut self, conn: &mut PgConnection) -> Result<(), Error> {
        let mut new = Vec::new();
        for (at, intent) in self.intents.iter().enumerate() {
            match intent.command.new_payment() {
                Ok(Some(payment)) => new.push((at, payment)),
                Ok(None) => {}
                Err(error) => self.decided[at] = Decided::Refused(error),
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = new
            .iter()
            .map(|(at, payment)| (&self.intents[*at].request.facility, payment))
            .collect();
        let written = payments::insert(conn, &rows).await?;
        for (at, mut payment) in new {
            if let Some(time) = written.get(&payment.id) {
                (payment.created_at, payment.updated_at) = (*time, *time);
                let intent = &self.intents[at];
                let changes = intent.span.in_scope(|| intent.command.created(payment, intent));
                self.decided[at] = Decided::Created(changes);
            }
        }
        Ok(())
    }

    /// Locks the payments that were there, and decides.
    async fn decide(&mut self, conn: &mut PgConnection) -> Result<(), Error> {
        let open: Vec<usize> = (0..self.intents.len())
            .filter(|at| matches!(self.decided[*at], Decided::Open))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let target = |at: &usize| {
            (
                &self.intents[*at].request.facility,
                self.intents[*at].command.target(),
            )
        };
        let targets: Vec<_> = open.iter().map(target).collect();
        let mut locked: HashMap<Uuid, Locked> = locks::lock(conn, &targets)
            .await?
            .into_iter()
            .map(|locked| (locked.payment.id, locked))
            .collect();
        // Each payment goes to the first that wants it.
        let mut taken = HashSet::new();
        let mut wanted = Vec::new();
        for (at, (facility, target)) in open.iter().copied().zip(&targets) {
            let its: Vec<Uuid> = locked
                .values()
                .filter(|one| one.facility == facility.as_str() && target.names(&one.payment))
                .map(|one| one.payment.id)
                .collect();
            if its.iter().any(|id| taken.contains(id)) {
                self.decided[at] = Decided::Again;
                continue;
            }
            taken.extend(its.iter().copied());
            wanted.extend(its.into_iter().map(|id| (at, id)));
        }
        let keys: Vec<_> = wanted
            .iter()
            .map(|(at, id)| {
                let request = &self.intents[*at].request;
                (&request.facility, *id, Some(&request.key))
            })
            .collect();
        let standings = match keys.is_empty() {
            true => Vec::new(),
            false => locks::standing(conn, &keys).await?,
        };
        let mut found: HashMap<usize, Vec<Found>> = HashMap::new();
        for ((at, id), (standing, begun)) in wanted.into_iter().zip(standings) {
            if let Some(begun) = begun {
                self.decided[at] = Decided::Late(begun);
            } else if let Some(Locked { payment, now, .. }) = locked.remove(&id) {
                found.entry(at).or_default().push(Found {
                    payment,
                    standing,
                    now,
                });
            }
        }
        for at in open {
            if matches!(self.decided[at], Decided::Open) {
                let (intent, found) = (&self.intents[at], found.remove(&at).unwrap_or_default());
                let decided = intent.span.in_scope(|| intent.command.decide(found, intent));
                self.decided[at] = decided.map_or_else(Decided::Refused, Decided::Accepted);
            }
        }
        Ok(())
    }

    /// Writes down what was accepted, of those requests that are new.
    async fn keep(self, conn: &mut PgConnection) -> Result<Vec<Result<Started, Error>>, Error> {
        let mut answers = self.answers(conn).await?;
        let claimed = self.claim(conn, &answers).await?;
        let known = self.known(conn, &claimed).await?;
        let (mut outcomes, mut written) = (Vec::new(), Vec::new());
        for (at, (decided, known)) in self.decided.into_iter().zip(known).enumerate() {
            let (is_claimed, answer) = (claimed.contains(&at), answers.remove(&at));
            outcomes.push(match (decided, known) {
                (Decided::Again, _) => Ok(Started::Again),
                (Decided::Created(changes) | Decided::Accepted(changes), _) if is_claimed => {
                    let opened = changes.opened.as_ref().map(|opened| opened.operation.clone());
                    written.push(changes);
                    match (opened, answer) {
                        (Some(operation), _) => Ok(Started::Wanted(operation)),
                        (None, Some(payment)) => Ok(Started::Answered(Answer {
                            payment,
                            replayed: false,
                        })),
                        (None, None) => Err(Error::Orphan(self.intents[at].operation_id)),
                    }
                }
                (_, Some(Err(error))) => Err(error.into()),
                (_, Some(Ok(Claim::Answered(bytes)))) => repeated(&bytes),
                (_, Some(Ok(Claim::Running { resource_id }))) => Ok(Started::Known(resource_id)),
                // Its answer is forgotten, and its work is not.
                (Decided::Late(begun), _) => begun_by(&begun, &self.intents[at].request),
                (Decided::Refused(error), _) => Err(error),
                // The transaction that had the key is gone by now.
                (Decided::Open | Decided::Created(_) | Decided::Accepted(_), _) => Ok(Started::Again),
            });
        }
        write(conn, &written).await?;
        Ok(outcomes)
    }

    /// The answers to those that are done with this transaction.
    async fn answers(&self, conn: &mut PgConnection) -> Result<HashMap<usize, wire::Payment>, Error> {
        let done: Vec<_> = self
            .accepted()
            .filter(|(_, changes)| changes.opened.is_none())
            .collect();
        let payments: Vec<_> = done.iter().map(|(_, changes)| changes.shown()).collect();
        let views = views(conn, &payments).await?;
        Ok(done.iter().map(|(at, _)| *at).zip(views).collect())
    }

    /// Claims the keys of what was accepted; those that it has claimed.
    async fn claim(
        &self,
        conn: &mut PgConnection,
        answers: &HashMap<usize, wire::Payment>,
    ) -> Result<HashSet<usize>, Error> {
        let accepted: Vec<usize> = self.accepted().map(|(at, _)| at).collect();
        if accepted.is_empty() {
            return Ok(HashSet::new());
        }
        let encoded: HashMap<usize, Vec<u8>> = answers
            .iter()
            .map(|(at, answer)| (*at, answer.encode_to_vec()))
            .collect();
        let requests: Vec<_> = accepted
            .iter()
            .map(|at| idempotency::Request {
                facility: &self.intents[*at].request.facility,
                key: &self.intents[*at].request.key,
                resource_id: self.intents[*at].operation_id,
                answer: encoded.get(at).map(Vec::as_slice),
            })
            .collect();
        let fresh = idempotency::claim_all(conn, &requests).await?;
        let claimed: HashSet<usize> = accepted
            .into_iter()
            .zip(fresh)
            .filter_map(|(at, is_fresh)| is_fresh.then_some(at))
            .collect();
        // The same request would have found the payment; it is another one under the same id. What it made must go.
        let is_reused = |(at, decided)| matches!(decided, &Decided::Created(_)) && !claimed.contains(&at);
        if self.decided.iter().enumerate().any(is_reused) {
            return Err(idempotency::Error::KeyReused.into());
        }
        audit::record_effects(conn, claimed.iter().map(|at| &self.intents[*at].origin)).await?;
        Ok(claimed)
    }

    /// What the keys say of those that were not claimed now.
    async fn known(
        &self,
        conn: &mut PgConnection,
        claimed: &HashSet<usize>,
    ) -> Result<Vec<Option<Result<Claim, idempotency::Error>>>, Error> {
        let others: Vec<usize> = (0..self.intents.len())
            .filter(|at| !claimed.contains(at) && !matches!(self.decided[*at], Decided::Again))
            .collect();
        let mut known: Vec<_> = self.intents.iter().map(|_| None).collect();
        if !others.is_empty() {
            let request = |at: &usize| &self.intents[*at].request;
            let keys: Vec<_> = others
                .iter()
                .map(|at| (&request(at).facility, &request(at).key))
                .collect();
            for (at, found) in others.iter().zip(idempotency::find(conn, &keys).await?) {
                known[*at] = found;
            }
        }
        Ok(known)
    }

    fn accepted(&self) -> impl Iterator<Item = (usize, &Changes)> {
        let decided = self.decided.iter().enumerate();
        decided.filter_map(|(at, decided)| match decided {
            Decided::Created(changes) | Decided::Accepted(changes) => Some((at, changes)),
            _ => None,
        })
    }
}

/// What a request has begun whose key is unknown: with [`Started::Known`], or refused as another request under its id.
pub(crate) fn begun_by(begun: &Begun, request: &Request) -> Result<Started, Error> {
    if begun.hash != request.key.hash() {
        return Err(idempotency::Error::KeyReused.into());
    }
    Ok(Started::Known(begun.operation_id))
}

fn repeated(bytes: &[u8]) -> Result<Started, Error> {
    Ok(Started::Answered(Answer {
        payment: wire::Payment::decode(bytes)?,
        replayed: true,
    }))
}

//! The first transaction of requests: claims their idempotency keys, changes their payments, and inserts the
//! operations for the processor. Concurrent requests share it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chassis::{
    audit,
    batch::{self, Batcher, Limits},
    idempotency::{self, KeyState},
    postgres::Database,
};
use events::Outbox;
use prost::Message;
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    changes::{Changes, write},
    command::{PaymentSnapshot, PendingCommand},
    error::Error,
    operation::Operation,
    request::Request,
    response::{Response, encode_payments},
    store::{
        locks::{self, EarlierOperation, LockedPayment, Target},
        payments,
    },
};

/// The result of the first transaction for one request.
#[derive(Debug)]
pub enum BeginResult {
    /// The request needs no operation, or its response was stored before.
    Done(Response),
    /// The processor has to be called. The operation is leased to the caller.
    Opened(Operation),
    /// An earlier request with the same key has begun with this operation.
    Duplicate(Uuid),
    /// Another request of the same transaction has changed the payment. Nothing was done; submit it again.
    Retry,
}

/// Executes the first transaction for a batch of requests.
pub struct BeginOperations {
    database: Database,
    outbox: Outbox,
}

/// Batches requests for their first transaction.
pub type BeginBatcher = Batcher<BeginOperations>;

impl BeginOperations {
    /// A batcher of requests on `database`.
    pub fn batcher(database: &Database, outbox: &Outbox, tasks: chassis::Tasks) -> BeginBatcher {
        let command = Self {
            database: database.clone(),
            outbox: outbox.clone(),
        };
        Batcher::new(command, Limits::default(), tasks)
    }
}

impl batch::Command for BeginOperations {
    type Item = PendingCommand;
    type Outcome = Result<BeginResult, Error>;
    type Error = Error;

    fn aggregate(&self, pending: &PendingCommand) -> Uuid {
        match pending.command.target() {
            Target::Payment(id) | Target::OrderPurpose(id, _) | Target::Order(id) => id,
        }
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, pending: &[Arc<PendingCommand>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = pending.iter().map(|one| &one.request.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let outcomes = Batch::new(pending).run(&mut tx).await?;
        tx.commit().await?;
        self.outbox.wake();
        for (one, outcome) in pending.iter().zip(&outcomes) {
            if let Ok(BeginResult::Done(_)) = outcome {
                idempotency::notify_waiters(&self.database, &one.request.facility, &one.request.key);
            }
        }
        Ok(outcomes)
    }
}

/// The commands of a transaction, with the decision on each so far.
struct Batch<'a> {
    pending: &'a [Arc<PendingCommand>],
    /// In the order of `pending`.
    decisions: Vec<Decision>,
}

enum Decision {
    /// Not decided yet.
    Pending,
    /// The command has created its payment.
    Created(Changes),
    Accepted(Changes),
    Rejected(Error),
    /// An earlier request with the same key has begun this operation.
    Duplicate(EarlierOperation),
    Retry,
}

impl<'a> Batch<'a> {
    fn new(pending: &'a [Arc<PendingCommand>]) -> Self {
        Self {
            pending,
            decisions: pending.iter().map(|_| Decision::Pending).collect(),
        }
    }

    async fn run(mut self, conn: &mut PgConnection) -> Result<Vec<Result<BeginResult, Error>>, Error> {
        self.insert_payments(conn).await?;
        self.decide(conn).await?;
        self.write(conn).await
    }

    /// Inserts the payments that do not exist yet.
    async fn insert_payments(&mut self, conn: &mut PgConnection) -> Result<(), Error> {
        let mut new = Vec::new();
        for (at, pending) in self.pending.iter().enumerate() {
            match pending.command.new_payment() {
                Ok(Some(payment)) => new.push((at, payment)),
                Ok(None) => {}
                Err(error) => self.decisions[at] = Decision::Rejected(error),
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = new
            .iter()
            .map(|(at, payment)| (&self.pending[*at].request.facility, payment))
            .collect();
        let inserted = payments::insert(conn, &rows).await?;
        for (at, mut payment) in new {
            if let Some(time) = inserted.get(&payment.id) {
                (payment.created_at, payment.updated_at) = (*time, *time);
                let pending = &self.pending[at];
                let changes = pending
                    .span
                    .in_scope(|| pending.command.created(payment, pending));
                self.decisions[at] = Decision::Created(changes);
            }
        }
        Ok(())
    }

    /// Locks the existing payments, and takes the decisions on them.
    async fn decide(&mut self, conn: &mut PgConnection) -> Result<(), Error> {
        let open: Vec<usize> = (0..self.pending.len())
            .filter(|at| matches!(self.decisions[*at], Decision::Pending))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let target = |at: &usize| {
            (
                &self.pending[*at].request.facility,
                self.pending[*at].command.target(),
            )
        };
        let targets: Vec<_> = open.iter().map(target).collect();
        let mut locked: HashMap<Uuid, LockedPayment> = locks::lock_payments(conn, &targets)
            .await?
            .into_iter()
            .map(|locked| (locked.payment.id, locked))
            .collect();
        // Each payment goes to the first command that selects it; the others are submitted again.
        let mut taken = HashSet::new();
        let mut wanted = Vec::new();
        for (at, (facility, target)) in open.iter().copied().zip(&targets) {
            let selected: Vec<Uuid> = locked
                .values()
                .filter(|one| one.facility == facility.as_str() && target.matches(&one.payment))
                .map(|one| one.payment.id)
                .collect();
            if selected.iter().any(|id| taken.contains(id)) {
                self.decisions[at] = Decision::Retry;
                continue;
            }
            taken.extend(selected.iter().copied());
            wanted.extend(selected.into_iter().map(|id| (at, id)));
        }
        let keys: Vec<_> = wanted
            .iter()
            .map(|(at, id)| {
                let request = &self.pending[*at].request;
                (&request.facility, *id, Some(&request.key))
            })
            .collect();
        let summaries = if keys.is_empty() {
            Vec::new()
        } else {
            locks::list_summaries(conn, &keys).await?
        };
        let mut found: HashMap<usize, Vec<PaymentSnapshot>> = HashMap::new();
        for ((at, id), (operations, earlier)) in wanted.into_iter().zip(summaries) {
            if let Some(earlier) = earlier {
                self.decisions[at] = Decision::Duplicate(earlier);
            } else if let Some(LockedPayment { payment, now, .. }) = locked.remove(&id) {
                found.entry(at).or_default().push(PaymentSnapshot {
                    payment,
                    operations,
                    now,
                });
            }
        }
        for at in open {
            if matches!(self.decisions[at], Decision::Pending) {
                let (pending, found) = (&self.pending[at], found.remove(&at).unwrap_or_default());
                let changes = pending.span.in_scope(|| pending.command.decide(found, pending));
                self.decisions[at] = changes.map_or_else(Decision::Rejected, Decision::Accepted);
            }
        }
        Ok(())
    }

    /// Writes the accepted changes of the requests that are new.
    async fn write(self, conn: &mut PgConnection) -> Result<Vec<Result<BeginResult, Error>>, Error> {
        let mut responses = self.responses(conn).await?;
        let claimed = self.claim_keys(conn, &responses).await?;
        let stored = self.find_stored(conn, &claimed).await?;
        let (mut outcomes, mut accepted) = (Vec::new(), Vec::new());
        for (at, (decision, stored)) in self.decisions.into_iter().zip(stored).enumerate() {
            let (is_claimed, response) = (claimed.contains(&at), responses.remove(&at));
            outcomes.push(match (decision, stored) {
                (Decision::Retry, _) => Ok(BeginResult::Retry),
                (Decision::Created(changes) | Decision::Accepted(changes), _) if is_claimed => {
                    let opened = changes.opened.as_ref().map(|opened| opened.operation.clone());
                    accepted.push(changes);
                    match (opened, response) {
                        (Some(operation), _) => Ok(BeginResult::Opened(operation)),
                        (None, Some(payment)) => Ok(BeginResult::Done(Response {
                            payment,
                            replayed: false,
                        })),
                        (None, None) => Err(Error::Inconsistent(self.pending[at].operation_id)),
                    }
                }
                (_, Some(Err(error))) => Err(error.into()),
                (_, Some(Ok(KeyState::Completed(bytes)))) => decode_stored(&bytes),
                (_, Some(Ok(KeyState::InProgress { resource_id }))) => {
                    Ok(BeginResult::Duplicate(resource_id))
                }
                // The stored response has expired, but the operation is still there.
                (Decision::Duplicate(earlier), _) => duplicate_of(&earlier, &self.pending[at].request),
                (Decision::Rejected(error), _) => Err(error),
                // The transaction that held the key has ended in the meantime.
                (Decision::Pending | Decision::Created(_) | Decision::Accepted(_), _) => {
                    Ok(BeginResult::Retry)
                }
            });
        }
        write(conn, &accepted).await?;
        Ok(outcomes)
    }

    /// The responses of the requests that need no operation, by their positions.
    async fn responses(&self, conn: &mut PgConnection) -> Result<HashMap<usize, wire::Payment>, Error> {
        let done: Vec<_> = self
            .accepted()
            .filter(|(_, changes)| changes.opened.is_none())
            .collect();
        let payments: Vec<_> = done
            .iter()
            .map(|(_, changes)| changes.response_payment())
            .collect();
        let encoded = encode_payments(conn, &payments).await?;
        Ok(done.iter().map(|(at, _)| *at).zip(encoded).collect())
    }

    /// Claims the keys of the accepted requests. Returns the positions of those whose key was new.
    async fn claim_keys(
        &self,
        conn: &mut PgConnection,
        responses: &HashMap<usize, wire::Payment>,
    ) -> Result<HashSet<usize>, Error> {
        let accepted: Vec<usize> = self.accepted().map(|(at, _)| at).collect();
        if accepted.is_empty() {
            return Ok(HashSet::new());
        }
        let encoded: HashMap<usize, Vec<u8>> = responses
            .iter()
            .map(|(at, response)| (*at, response.encode_to_vec()))
            .collect();
        let requests: Vec<_> = accepted
            .iter()
            .map(|at| idempotency::NewKey {
                facility: &self.pending[*at].request.facility,
                key: &self.pending[*at].request.key,
                resource_id: self.pending[*at].operation_id,
                response: encoded.get(at).map(Vec::as_slice),
            })
            .collect();
        let fresh = idempotency::acquire_all(conn, &requests).await?;
        let claimed: HashSet<usize> = accepted
            .into_iter()
            .zip(fresh)
            .filter_map(|(at, is_fresh)| is_fresh.then_some(at))
            .collect();
        // A repetition would have found the payment, so this is another request with the same id. Roll back its
        // payment.
        let is_reused = |(at, decision)| matches!(decision, &Decision::Created(_)) && !claimed.contains(&at);
        if self.decisions.iter().enumerate().any(is_reused) {
            return Err(idempotency::Error::KeyReused.into());
        }
        audit::record_effects(conn, claimed.iter().map(|at| &self.pending[*at].origin)).await?;
        Ok(claimed)
    }

    /// What is stored under the keys that were not claimed by this transaction.
    async fn find_stored(
        &self,
        conn: &mut PgConnection,
        claimed: &HashSet<usize>,
    ) -> Result<Vec<Option<Result<KeyState, idempotency::Error>>>, Error> {
        let others: Vec<usize> = (0..self.pending.len())
            .filter(|at| !claimed.contains(at) && !matches!(self.decisions[*at], Decision::Retry))
            .collect();
        let mut stored: Vec<_> = self.pending.iter().map(|_| None).collect();
        if !others.is_empty() {
            let request = |at: &usize| &self.pending[*at].request;
            let keys: Vec<_> = others
                .iter()
                .map(|at| (&request(at).facility, &request(at).key))
                .collect();
            for (at, found) in others.iter().zip(idempotency::find(conn, &keys).await?) {
                stored[*at] = found;
            }
        }
        Ok(stored)
    }

    fn accepted(&self) -> impl Iterator<Item = (usize, &Changes)> {
        let decisions = self.decisions.iter().enumerate();
        decisions.filter_map(|(at, decision)| match decision {
            Decision::Created(changes) | Decision::Accepted(changes) => Some((at, changes)),
            _ => None,
        })
    }
}

/// The result of a request whose stored response has expired: [`BeginResult::Duplicate`] of the earlier operation,
/// or an error if that belongs to another request with the same id.
pub(crate) fn duplicate_of(earlier: &EarlierOperation, request: &Request) -> Result<BeginResult, Error> {
    if earlier.request_hash != request.key.hash() {
        return Err(idempotency::Error::KeyReused.into());
    }
    Ok(BeginResult::Duplicate(earlier.operation_id))
}

fn decode_stored(bytes: &[u8]) -> Result<BeginResult, Error> {
    Ok(BeginResult::Done(Response {
        payment: wire::Payment::decode(bytes)?,
        replayed: true,
    }))
}

//! The transaction after an exchange with the processor: payment, ledger, events and the request's answer. Exchanges that
//! end at the same time share it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chassis::{
    Facility,
    batch::{self, Batcher, Limits},
    idempotency::{self, Key},
    postgres::Database,
};
use events::Outbox;
use prost::Message;
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use tracing::Span;
use uuid::Uuid;

use crate::{
    changes::{Changes, write},
    conduct::{conclusion, interim},
    config,
    desk::views,
    error::Error,
    exchange::Heard,
    operation::{Kind, Operation, State},
    payment::{self, Purpose},
    processor::Outcome,
    publish,
    settle::{Answered, settle, settle_next},
    store::{
        locks::{self, Exchanged},
        operations::{self, Charge},
        updates::Update,
    },
};

/// An exchange that has ended.
#[derive(Debug)]
pub struct Ended {
    pub(crate) facility: Facility,
    /// As it was leased.
    pub(crate) operation: Operation,
    pub(crate) heard: Heard,
    /// What came of the capture that follows by itself, if that was asked for at once.
    pub(crate) capture: Option<Heard>,
    /// Of the request that it was made for.
    pub(crate) key: Option<Key>,
    /// What happens, happens in this span's trace.
    pub(crate) span: Span,
}

/// What the transaction has led to.
#[derive(Debug)]
pub enum Finished {
    Done(wire::Payment),
    /// The operation that follows by itself, leased to the caller.
    Next(Operation),
    /// Somebody else has ended the operation.
    Elsewhere,
}

/// Carries the transactions after exchanges out.
pub struct Finishing {
    database: Database,
    outbox: Outbox,
    processing: config::Processor,
    authorization: config::Authorization,
}

/// Where exchanges are handed in that have ended.
pub type Finisher = Batcher<Finishing>;

/// What was begun must be finished: as many may wait as can be asked of the processor.
const WAITING: usize = 1 << 16;

impl Finishing {
    /// Where exchanges about payments of `database` are handed in.
    pub fn batcher(
        database: &Database,
        outbox: &Outbox,
        (processing, authorization): (&config::Processor, &config::Authorization),
        tasks: chassis::Tasks,
    ) -> Finisher {
        let finishing = Self {
            database: database.clone(),
            outbox: outbox.clone(),
            processing: processing.clone(),
            authorization: authorization.clone(),
        };
        let limits = Limits {
            waiting: WAITING,
            ..Limits::default()
        };
        Batcher::new(finishing, limits, tasks)
    }
}

impl batch::Command for Finishing {
    type Item = Ended;
    type Outcome = Result<Finished, Error>;
    type Error = Error;

    fn aggregate(&self, ended: &Ended) -> Uuid {
        ended.operation.payment_id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, ended: &[Arc<Ended>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = ended.iter().map(|ended| &ended.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let outcomes = self.finish(&mut tx, ended).await?;
        tx.commit().await?;
        self.outbox.wake();
        for one in ended {
            if let Some(key) = &one.key {
                idempotency::announce(&self.database, &one.facility, key);
            }
        }
        Ok(outcomes)
    }
}

/// What is decided of an exchange.
struct Decision {
    changes: Changes,
    /// What its caller is told once that is written: whether the outcome is the last one of the request, or an error.
    told: Result<Told, Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The answer, which is kept.
    Answer,
    /// How the payment stands now.
    Interim,
    /// What follows.
    Next,
}

impl Finishing {
    async fn finish(
        &self,
        conn: &mut PgConnection,
        ended: &[Arc<Ended>],
    ) -> Result<Vec<Result<Finished, Error>>, Error> {
        let named: Vec<_> = ended
            .iter()
            .map(|one| (&one.facility, one.operation.payment_id, one.operation.id))
            .collect();
        let mut exchanged: HashMap<Uuid, Exchanged> = locks::lock_exchanged(conn, &named)
            .await?
            .into_iter()
            .map(|one| (one.operation_id, one))
            .collect();
        let mut outcomes: Vec<Option<Result<Finished, Error>>> = Vec::new();
        let mut decisions: Vec<(usize, Result<Told, Error>)> = Vec::new();
        let mut changes = Vec::new();
        for (at, one) in ended.iter().enumerate() {
            let Some(exchanged) = exchanged.remove(&one.operation.id) else {
                outcomes.push(Some(Err(Error::Orphan(one.operation.id))));
                continue;
            };
            if !matches!(exchanged.state, State::Running | State::Unknown) {
                outcomes.push(Some(Ok(Finished::Elsewhere)));
                continue;
            }
            let charges = match one.needs_charges() {
                true => operations::charges(conn, one.operation.payment_id, 2).await?,
                false => Vec::new(),
            };
            let decided = one.span.in_scope(|| self.decide(one, exchanged, &charges));
            outcomes.push(match decided {
                Ok(decision) => {
                    decisions.push((at, decision.told));
                    changes.push(decision.changes);
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        write(conn, &changes).await?;
        for (at, finished) in answer(conn, ended, decisions, &changes).await? {
            outcomes[at] = Some(finished);
        }
        let orphaned =
            |outcome: Option<_>, one: &Arc<Ended>| outcome.unwrap_or(Err(Error::Orphan(one.operation.id)));
        Ok(outcomes
            .into_iter()
            .zip(ended)
            .map(|(outcome, one)| orphaned(outcome, one))
            .collect())
    }

    fn decide(&self, ended: &Ended, exchanged: Exchanged, charges: &[Charge]) -> Result<Decision, Error> {
        let outcome = match &ended.heard {
            Heard::Settled(outcome) => outcome,
            unsettled => return self.postpone(ended, unsettled, exchanged),
        };
        let locked = exchanged.locked;
        let answered = Answered {
            facility: &ended.facility,
            operation: &ended.operation,
            outcome,
            now: locked.now,
            lifetime: self.authorization.lifetime(),
            lease: self.processing.lease(),
            charges,
        };
        let mut settled = settle(locked.payment, answered)?;
        match &ended.capture {
            Some(Heard::Settled(outcome)) => {
                settled = settle_next(settled, Answered { outcome, ..answered })?;
            }
            Some(unsettled) => return Ok(self.postpone_next(settled.changes, unsettled)),
            None => {}
        }
        let told = match settled.changes.opened {
            Some(_) => Ok(Told::Next),
            None => conclusion(&settled.operation).map(|()| Told::Answer),
        };
        Ok(Decision {
            changes: settled.changes,
            told,
        })
    }

    /// The outcome of the capture that follows stays open.
    fn postpone_next(&self, mut changes: Changes, heard: &Heard) -> Decision {
        let purpose = changes.payment.purpose;
        let mut told = Ok(Told::Interim);
        if let Some(next) = &mut changes.opened {
            let (state, pause, error) = self.later(heard, next.operation.state, 0);
            (next.operation.state, next.lease) = (state, pause);
            told = told_meanwhile(&next.operation, purpose, error);
        }
        Decision { changes, told }
    }

    /// The outcome stays open: somebody will ask again later.
    fn postpone(&self, ended: &Ended, heard: &Heard, exchanged: Exchanged) -> Result<Decision, Error> {
        let Exchanged {
            locked,
            state,
            attempts,
            ..
        } = exchanged;
        let (state, pause, error) = self.later(heard, state, attempts);
        let operation = &ended.operation;
        let mut changes = Changes::none(&ended.facility, locked.payment);
        changes
            .operations
            .push(Update::postponed(operation.id, state, pause));
        if state == State::Unknown
            && changes.payment.state == payment::State::Authorizing
            && operation.kind == Kind::Authorize
        {
            changes.payment.outcome_unknown()?;
            changes.save(locked.now);
            let event = publish::outcome_unknown(&changes.payment);
            changes.tell(operation.request_id, &event);
        }
        let told = told_meanwhile(operation, changes.payment.purpose, error);
        Ok(Decision { changes, told })
    }

    /// How an operation stays open that was in `state`, when somebody asks again, and why nothing is known of it.
    fn later(&self, heard: &Heard, state: State, attempts: u32) -> (State, Duration, Option<Error>) {
        let again = self.processing.ask_again_in(attempts + 1);
        match heard {
            Heard::OutOfTime => (state, Duration::ZERO, Some(Error::OutOfTime)),
            // Of one that was sent before, the outcome is still open.
            Heard::Unreachable if state == State::Unknown => (state, again, Some(Error::NoAnswer)),
            Heard::Unreachable => (state, again, Some(Error::Unreachable)),
            Heard::Silence | Heard::Processing | Heard::Settled(_) => (State::Unknown, again, None),
        }
    }
}

/// What the caller of an operation is told that stays open.
fn told_meanwhile(operation: &Operation, purpose: Purpose, error: Option<Error>) -> Result<Told, Error> {
    match error {
        Some(error) if operation.is_waited_for(purpose) => Err(error),
        _ => interim(operation, purpose).map(|()| Told::Interim),
    }
}

impl Ended {
    /// Whether it is a refund that goes on with another charge.
    fn needs_charges(&self) -> bool {
        let is_approved = matches!(self.heard, Heard::Settled(Outcome::Approved { .. }));
        is_approved && self.operation.kind == Kind::Refund && self.operation.remaining > 0
    }
}

/// What the callers are told, by their places, once all is written. The last answers are kept.
async fn answer(
    conn: &mut PgConnection,
    ended: &[Arc<Ended>],
    decisions: Vec<(usize, Result<Told, Error>)>,
    changes: &[Changes],
) -> Result<Vec<(usize, Result<Finished, Error>)>, Error> {
    let shown: Vec<_> = decisions
        .iter()
        .zip(changes)
        .filter(|((_, told), _)| matches!(told, Ok(Told::Answer | Told::Interim)))
        .map(|(_, changes)| changes.shown())
        .collect();
    let mut views = views(conn, &shown).await?.into_iter();
    let mut told = Vec::new();
    let mut kept = Vec::new();
    for ((at, decided), changes) in decisions.into_iter().zip(changes) {
        let finished = match decided {
            Err(error) => Err(error),
            Ok(Told::Next) => match &changes.opened {
                Some(next) => Ok(Finished::Next(next.operation.clone())),
                None => Err(Error::Orphan(ended[at].operation.id)),
            },
            Ok(shown) => {
                let view = views.next().ok_or(Error::Orphan(ended[at].operation.id))?;
                if let (Told::Answer, Some(key)) = (shown, &ended[at].key) {
                    kept.push((told.len(), (&ended[at].facility, key, view.encode_to_vec())));
                }
                Ok(Finished::Done(view))
            }
        };
        told.push((at, finished));
    }
    let (places, answers): (Vec<usize>, Vec<_>) = kept.into_iter().unzip();
    if !answers.is_empty() {
        let stored = idempotency::answer_all(conn, &answers).await?;
        for (place, bytes) in places.into_iter().zip(stored) {
            told[place].1 = Ok(Finished::Done(wire::Payment::decode(bytes.as_slice())?));
        }
    }
    Ok(told)
}

//! The transaction after a call to the processor: payment, ledger, events and the stored response. Calls that
//! finish at the same time share it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ::events::Outbox;
use chassis::{
    Facility,
    batch::{self, Batcher, Limits},
    idempotency::{self, Key},
    postgres::Database,
};
use prost::Message;
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use tracing::Span;
use uuid::Uuid;

use crate::{
    apply_outcome::{self, OutcomeContext},
    call_processor::ProcessorReply,
    changes::{Changes, write},
    config,
    error::Error,
    events,
    operation::{Kind, Operation, State},
    operation_result::{final_result, interim_result},
    payment::{self, Purpose},
    processor::Outcome,
    response::encode_payments,
    store::{
        locks::{self, LockedOperation},
        operations::{self, Charge},
        updates::Update,
    },
};

/// A finished call to the processor.
#[derive(Debug)]
pub struct FinishedCall {
    pub(crate) facility: Facility,
    /// The operation as it was leased.
    pub(crate) operation: Operation,
    pub(crate) reply: ProcessorReply,
    /// The reply to the capture that follows the authorization, if it was sent at once.
    pub(crate) capture: Option<ProcessorReply>,
    /// The key of the request that the call was made for.
    pub(crate) key: Option<Key>,
    /// The caller's span: the decision belongs to its trace.
    pub(crate) span: Span,
}

/// The result of the transaction for one call.
#[derive(Debug)]
pub enum RecordResult {
    Done(wire::Payment),
    /// The follow-up operation, leased to the caller.
    Next(Operation),
    /// Another request or worker has ended the operation.
    AlreadyEnded,
}

/// Executes the transaction for a batch of finished calls.
pub struct RecordOutcomes {
    database: Database,
    outbox: Outbox,
    processor_settings: config::Processor,
    authorization_settings: config::Authorization,
}

/// Batches finished calls.
pub type RecordBatcher = Batcher<RecordOutcomes>;

/// The bound of the queue. Every call must be recorded, so the queue holds as many as can be in progress.
const MAX_QUEUED: usize = 1 << 16;

impl RecordOutcomes {
    /// A batcher of finished calls for payments of `database`.
    pub fn batcher(
        database: &Database,
        outbox: &Outbox,
        (processor_settings, authorization_settings): (&config::Processor, &config::Authorization),
        tasks: chassis::Tasks,
    ) -> RecordBatcher {
        let command = Self {
            database: database.clone(),
            outbox: outbox.clone(),
            processor_settings: processor_settings.clone(),
            authorization_settings: authorization_settings.clone(),
        };
        let limits = Limits {
            waiting: MAX_QUEUED,
            ..Limits::default()
        };
        Batcher::new(command, limits, tasks)
    }
}

impl batch::Command for RecordOutcomes {
    type Item = FinishedCall;
    type Outcome = Result<RecordResult, Error>;
    type Error = Error;

    fn aggregate(&self, call: &FinishedCall) -> Uuid {
        call.operation.payment_id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, calls: &[Arc<FinishedCall>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = calls.iter().map(|call| &call.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let outcomes = self.record(&mut tx, calls).await?;
        tx.commit().await?;
        self.outbox.wake();
        for call in calls {
            if let Some(key) = &call.key {
                idempotency::notify_waiters(&self.database, &call.facility, key);
            }
        }
        Ok(outcomes)
    }
}

/// The decision on a finished call.
struct Decision {
    changes: Changes,
    /// What the caller gets once the changes are written.
    response: Result<ResponseKind, Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ResponseKind {
    /// The final response, which is stored.
    Final,
    /// The payment's current state, which is not stored.
    Interim,
    /// The follow-up operation.
    Next,
}

impl RecordOutcomes {
    async fn record(
        &self,
        conn: &mut PgConnection,
        calls: &[Arc<FinishedCall>],
    ) -> Result<Vec<Result<RecordResult, Error>>, Error> {
        let wanted: Vec<_> = calls
            .iter()
            .map(|call| (&call.facility, call.operation.payment_id, call.operation.id))
            .collect();
        let mut locked: HashMap<Uuid, LockedOperation> = locks::lock_operations(conn, &wanted)
            .await?
            .into_iter()
            .map(|one| (one.operation_id, one))
            .collect();
        let mut outcomes: Vec<Option<Result<RecordResult, Error>>> = Vec::new();
        let mut decisions: Vec<(usize, Result<ResponseKind, Error>)> = Vec::new();
        let mut changes = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            let Some(locked) = locked.remove(&call.operation.id) else {
                outcomes.push(Some(Err(Error::Inconsistent(call.operation.id))));
                continue;
            };
            if !matches!(locked.state, State::Running | State::Unknown) {
                outcomes.push(Some(Ok(RecordResult::AlreadyEnded)));
                continue;
            }
            let charges = if call.needs_charges() {
                operations::list_charges(conn, call.operation.payment_id, 2).await?
            } else {
                Vec::new()
            };
            let decided = call.span.in_scope(|| self.decide(call, locked, &charges));
            outcomes.push(match decided {
                Ok(decision) => {
                    decisions.push((at, decision.response));
                    changes.push(decision.changes);
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        write(conn, &changes).await?;
        for (at, result) in build_results(conn, calls, decisions, &changes).await? {
            outcomes[at] = Some(result);
        }
        let or_inconsistent = |outcome: Option<_>, call: &Arc<FinishedCall>| {
            outcome.unwrap_or(Err(Error::Inconsistent(call.operation.id)))
        };
        Ok(outcomes
            .into_iter()
            .zip(calls)
            .map(|(outcome, call)| or_inconsistent(outcome, call))
            .collect())
    }

    fn decide(
        &self,
        call: &FinishedCall,
        locked: LockedOperation,
        charges: &[Charge],
    ) -> Result<Decision, Error> {
        let outcome = match &call.reply {
            ProcessorReply::Completed(outcome) => outcome,
            open => return self.postpone(call, open, locked),
        };
        let payment = locked.payment;
        let context = OutcomeContext {
            facility: &call.facility,
            operation: &call.operation,
            outcome,
            now: payment.now,
            lifetime: self.authorization_settings.lifetime(),
            lease: self.processor_settings.lease(),
            charges,
        };
        let mut applied = apply_outcome::apply(payment.payment, context)?;
        match &call.capture {
            Some(ProcessorReply::Completed(outcome)) => {
                applied = apply_outcome::apply_next(applied, OutcomeContext { outcome, ..context })?;
            }
            Some(open) => return Ok(self.postpone_next(applied.changes, open)),
            None => {}
        }
        let response = match applied.changes.opened {
            Some(_) => Ok(ResponseKind::Next),
            None => final_result(&applied.operation).map(|()| ResponseKind::Final),
        };
        Ok(Decision {
            changes: applied.changes,
            response,
        })
    }

    /// Leaves the outcome of the follow-up capture open.
    fn postpone_next(&self, mut changes: Changes, reply: &ProcessorReply) -> Decision {
        let purpose = changes.payment.purpose;
        let mut response = Ok(ResponseKind::Interim);
        if let Some(next) = &mut changes.opened {
            let (state, pause, error) = self.next_attempt(reply, next.operation.state, 0);
            (next.operation.state, next.lease) = (state, pause);
            response = interim_response(&next.operation, purpose, error);
        }
        Decision { changes, response }
    }

    /// Leaves the outcome open: the processor is queried again later.
    fn postpone(
        &self,
        call: &FinishedCall,
        reply: &ProcessorReply,
        locked: LockedOperation,
    ) -> Result<Decision, Error> {
        let LockedOperation {
            payment,
            state,
            attempts,
            ..
        } = locked;
        let (state, pause, error) = self.next_attempt(reply, state, attempts);
        let operation = &call.operation;
        let mut changes = Changes::new(&call.facility, payment.payment);
        changes
            .operations
            .push(Update::postponed(operation.id, state, pause));
        if state == State::Unknown
            && changes.payment.state == payment::State::Authorizing
            && operation.kind == Kind::Authorize
        {
            changes.payment.mark_outcome_unknown()?;
            changes.save(payment.now);
            let event = events::outcome_unknown(&changes.payment);
            changes.add_event(operation.request_id, &event);
        }
        let response = interim_response(operation, changes.payment.purpose, error);
        Ok(Decision { changes, response })
    }

    /// The next state of an open operation in `state`, the delay before the processor is queried again, and the
    /// error for the caller, if any.
    fn next_attempt(
        &self,
        reply: &ProcessorReply,
        state: State,
        attempts: u32,
    ) -> (State, Duration, Option<Error>) {
        let delay = self.processor_settings.query_delay(attempts + 1);
        match reply {
            ProcessorReply::DeadlineExceeded => (state, Duration::ZERO, Some(Error::DeadlineExceeded)),
            // It was sent before, so its outcome is still unknown.
            ProcessorReply::Unreachable if state == State::Unknown => {
                (state, delay, Some(Error::ProcessorTimeout))
            }
            ProcessorReply::Unreachable => (state, delay, Some(Error::ProcessorUnreachable)),
            ProcessorReply::TimedOut | ProcessorReply::Processing | ProcessorReply::Completed(_) => {
                (State::Unknown, delay, None)
            }
        }
    }
}

/// The response to the caller of an operation that stays open.
fn interim_response(
    operation: &Operation,
    purpose: Purpose,
    error: Option<Error>,
) -> Result<ResponseKind, Error> {
    match error {
        Some(error) if operation.is_awaited(purpose) => Err(error),
        _ => interim_result(operation, purpose).map(|()| ResponseKind::Interim),
    }
}

impl FinishedCall {
    /// Whether it is a refund that continues with another charge.
    fn needs_charges(&self) -> bool {
        let is_approved = matches!(self.reply, ProcessorReply::Completed(Outcome::Approved { .. }));
        is_approved && self.operation.kind == Kind::Refund && self.operation.remaining > 0
    }
}

/// Builds the callers' results, with their positions, once the changes are written. Stores the final responses.
async fn build_results(
    conn: &mut PgConnection,
    calls: &[Arc<FinishedCall>],
    decisions: Vec<(usize, Result<ResponseKind, Error>)>,
    changes: &[Changes],
) -> Result<Vec<(usize, Result<RecordResult, Error>)>, Error> {
    let shown: Vec<_> = decisions
        .iter()
        .zip(changes)
        .filter(|((_, response), _)| matches!(response, Ok(ResponseKind::Final | ResponseKind::Interim)))
        .map(|(_, changes)| changes.response_payment())
        .collect();
    let mut encoded = encode_payments(conn, &shown).await?.into_iter();
    let mut results = Vec::new();
    let mut stored = Vec::new();
    for ((at, response), changes) in decisions.into_iter().zip(changes) {
        let result = match response {
            Err(error) => Err(error),
            Ok(ResponseKind::Next) => match &changes.opened {
                Some(next) => Ok(RecordResult::Next(next.operation.clone())),
                None => Err(Error::Inconsistent(calls[at].operation.id)),
            },
            Ok(kind) => {
                let payment = encoded
                    .next()
                    .ok_or(Error::Inconsistent(calls[at].operation.id))?;
                if let (ResponseKind::Final, Some(key)) = (kind, &calls[at].key) {
                    stored.push((results.len(), (&calls[at].facility, key, payment.encode_to_vec())));
                }
                Ok(RecordResult::Done(payment))
            }
        };
        results.push((at, result));
    }
    let (positions, responses): (Vec<usize>, Vec<_>) = stored.into_iter().unzip();
    if !responses.is_empty() {
        let stored = idempotency::store_responses(conn, &responses).await?;
        for (position, bytes) in positions.into_iter().zip(stored) {
            results[position].1 = Ok(RecordResult::Done(wire::Payment::decode(bytes.as_slice())?));
        }
    }
    Ok(results)
}

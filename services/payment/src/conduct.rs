//! How a mutating request is carried out, whatever is repeated or killed in between:
//!
//! 1. one transaction claims the request and writes down what is wanted of the processor;
//! 2. the processor is asked, outside of any transaction;
//! 3. one transaction books its answer: payment, ledger, events and the request's answer.
//!
//! Between 1 and 3 the operation is leased. When the lease runs out, because the process died or the processor was
//! silent, the repeated request or the background takes the operation over.

use std::{future::Future, time::Duration};

use chassis::{
    Facility,
    idempotency::{self, Claim},
};
use prost::Message;
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    desk::{Answer, Desk, Request, view},
    error::Error,
    exchange::{self, Approach, Heard},
    let_go::let_go,
    operation::{Kind, Operation, State},
    payment::{self, Payment},
    publish,
    settle::settle,
    store::{self, operations},
};

/// The first transaction of a use case.
pub(crate) trait Command: Send + Sync {
    /// Checks and changes the payment, and says what is wanted of the processor. An operation must have the id given.
    fn begin(
        &self,
        desk: &Desk,
        conn: &mut PgConnection,
        request: &Request,
        operation_id: Uuid,
    ) -> impl Future<Output = Result<Begun, Error>> + Send;
}

/// What the first transaction has led to.
pub(crate) enum Begun {
    /// The request is done.
    Done(Payment),
    /// The processor is to be asked.
    Wanted(Operation),
}

enum Claimed {
    Answered(Answer),
    Leased(Operation, Approach),
    /// Somebody else works on it for this long.
    Waiting(Duration),
}

/// Below this an exchange with the processor is not worth beginning.
const LEAST_BUDGET: Duration = Duration::from_millis(20);
/// What is left of the caller's time for the transaction after the exchange.
const RESERVE: Duration = Duration::from_millis(50);
/// How long a repeated request waits before it looks again whether the first is still being worked on.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long a request without a deadline waits for another one's answer before it is looked at again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Carries a request out, or gives the answer that it had before.
pub(crate) async fn conduct(desk: &Desk, request: &Request, command: &impl Command) -> Result<Answer, Error> {
    let (operation, approach) = loop {
        match claim(desk, request, command).await? {
            Claimed::Answered(answer) => return Ok(answer),
            Claimed::Leased(operation, approach) => break (operation, approach),
            Claimed::Waiting(leased) => wait(desk, request, leased).await?,
        }
    };
    drive(desk, &request.facility, operation, approach, Some(request))
        .await
        .map(|payment| Answer {
            payment,
            replayed: false,
        })
}

/// Brings an operation that the caller has leased to its end, with those that follow from it.
pub(crate) async fn drive(
    desk: &Desk,
    facility: &Facility,
    mut operation: Operation,
    mut approach: Approach,
    request: Option<&Request>,
) -> Result<wire::Payment, Error> {
    let timeout = desk.processing.timeout();
    loop {
        let budget = request.map_or(timeout, |request| {
            request.time_left(timeout + RESERVE).saturating_sub(RESERVE)
        });
        let heard = if budget < LEAST_BUDGET {
            Heard::OutOfTime
        } else {
            exchange::with(&*desk.processor, &operation, approach, budget).await
        };
        match hear(desk, facility, &operation, heard, request).await {
            Ok(Step::Done(payment)) => return Ok(payment),
            Ok(Step::Next(next)) => (operation, approach) = (next, Approach::Send),
            Err(error) => {
                if error.is_passing() {
                    let_go(desk, facility, &operation);
                }
                return Err(error);
            }
        }
    }
}

async fn claim(desk: &Desk, request: &Request, command: &impl Command) -> Result<Claimed, Error> {
    match claim_now(desk, request, command).await {
        Err(error) if error.may_be_late() => again(desk, request).await?.ok_or(error),
        claimed => claimed,
    }
}

/// A request whose answer is forgotten and whose work is not. It is answered by how that stands now.
async fn again(desk: &Desk, request: &Request) -> Result<Option<Claimed>, Error> {
    let mut tx = desk.database.begin(&request.facility).await?;
    let made = operations::made_by(&mut tx, request.facility.as_str(), &request.key).await?;
    let Some((root_id, hash)) = made else {
        return Ok(None);
    };
    if hash != request.key.hash() {
        return Err(idempotency::Error::KeyReused.into());
    }
    let claimed = resume(desk, &mut tx, request, root_id).await?;
    tx.commit().await?;
    Ok(Some(claimed))
}

async fn claim_now(desk: &Desk, request: &Request, command: &impl Command) -> Result<Claimed, Error> {
    let facility = &request.facility;
    let id = Uuid::now_v7();
    let mut tx = desk.database.begin(facility).await?;
    let claimed = match idempotency::claim(&mut tx, facility, &request.key, id).await? {
        Claim::Answered(bytes) => {
            let payment = wire::Payment::decode(bytes.as_slice())?;
            return Ok(Claimed::Answered(Answer {
                payment,
                replayed: true,
            }));
        }
        Claim::New => match command.begin(desk, &mut tx, request, id).await? {
            Begun::Wanted(operation) => Claimed::Leased(operation, Approach::Send),
            Begun::Done(payment) => Claimed::Answered(answer(&mut tx, request, &payment).await?),
        },
        Claim::Running { resource_id } => resume(desk, &mut tx, request, resource_id).await?,
    };
    tx.commit().await?;
    if let Claimed::Answered(_) = claimed {
        desk.outbox.wake();
        idempotency::announce(&desk.database, &request.facility, &request.key);
    }
    Ok(claimed)
}

/// Looks how far the first request has come.
async fn resume(
    desk: &Desk,
    conn: &mut PgConnection,
    request: &Request,
    root_id: Uuid,
) -> Result<Claimed, Error> {
    let Some(last) = operations::last_of(conn, root_id).await? else {
        return Err(Error::Orphan(root_id));
    };
    let operation = last.operation;
    if operation.is_open() {
        return match operation.state {
            State::Unknown => {
                let payment = locked(conn, &operation).await?;
                interim(conn, &operation, &payment).await.map(|payment| {
                    Claimed::Answered(Answer {
                        payment,
                        replayed: false,
                    })
                })
            }
            _ if !last.for_another.is_zero() => Ok(Claimed::Waiting(last.for_another)),
            _ if operations::take_over(conn, operation.id, desk.processing.lease()).await? => {
                let attempts = operation.attempts + 1;
                Ok(Claimed::Leased(
                    Operation {
                        attempts,
                        ..operation
                    },
                    Approach::Ask,
                ))
            }
            _ => Ok(Claimed::Waiting(LOOK_AGAIN)),
        };
    }
    let payment = locked(conn, &operation).await?;
    conclusion(&operation)?;
    // The first request may have been answered since this one was claimed; to the caller it is a repetition either way.
    let answer = answer(conn, request, &payment).await?;
    Ok(Claimed::Answered(Answer {
        replayed: true,
        ..answer
    }))
}

async fn wait(desk: &Desk, request: &Request, leased: Duration) -> Result<(), Error> {
    let patience = request.time_left(leased.min(LOOK_AGAIN));
    if patience < LEAST_BUDGET {
        return Err(Error::InProgress);
    }
    let until = Instant::now() + request.time_left(LONGEST_WAIT);
    idempotency::wait(&desk.database, &request.facility, &request.key, patience, until).await?;
    Ok(())
}

enum Step {
    Done(wire::Payment),
    Next(Operation),
}

/// The transaction after an exchange.
async fn hear(
    desk: &Desk,
    facility: &Facility,
    operation: &Operation,
    heard: Heard,
    request: Option<&Request>,
) -> Result<Step, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let mut payment = locked(&mut tx, operation).await?;
    let mut last = operations::lock(&mut tx, operation.id)
        .await?
        .ok_or(Error::Orphan(operation.id))?;
    if last.is_open() {
        let outcome = match heard {
            Heard::Settled(outcome) => outcome,
            unsettled => {
                let concluded = postpone(desk, &mut tx, facility, &mut payment, &last, &unsettled).await;
                tx.commit().await?;
                desk.outbox.wake();
                return concluded.map(Step::Done);
            }
        };
        let next = settle(desk, &mut tx, facility, &mut payment, &mut last, &outcome).await?;
        if let Some(next) = next {
            tx.commit().await?;
            desk.outbox.wake();
            return Ok(Step::Next(next));
        }
    } else if let Some(latest) = operations::last_of(&mut tx, last.root_id).await? {
        last = latest.operation;
    }
    let concluded = match conclusion(&last) {
        Err(error) => Err(error),
        Ok(()) => match request {
            Some(request) => answer(&mut tx, request, &payment)
                .await
                .map(|answer| answer.payment),
            None => view(&mut tx, &payment).await,
        },
    };
    tx.commit().await?;
    desk.outbox.wake();
    if let Some(request) = request {
        idempotency::announce(&desk.database, &request.facility, &request.key);
    }
    concluded.map(Step::Done)
}

/// The outcome stays open: somebody will ask again later.
async fn postpone(
    desk: &Desk,
    conn: &mut PgConnection,
    facility: &Facility,
    payment: &mut Payment,
    operation: &Operation,
    heard: &Heard,
) -> Result<wire::Payment, Error> {
    let again = desk.processing.ask_again_in(operation.attempts + 1);
    let (state, pause, error) = match heard {
        Heard::OutOfTime => (operation.state, Duration::ZERO, Some(Error::OutOfTime)),
        // Of one that was sent before, the outcome is still open.
        Heard::Unreachable if operation.state == State::Unknown => {
            (operation.state, again, Some(Error::NoAnswer))
        }
        Heard::Unreachable => (operation.state, again, Some(Error::Unreachable)),
        Heard::Silence | Heard::Processing | Heard::Settled(_) => (State::Unknown, again, None),
    };
    operations::postpone(conn, operation.id, state, pause).await?;
    if state == State::Unknown
        && payment.state == payment::State::Authorizing
        && operation.kind == Kind::Authorize
    {
        payment.outcome_unknown()?;
        store::save(conn, payment).await?;
        let event = publish::outcome_unknown(payment);
        publish::append(conn, facility, payment, operation.request_id, &event).await?;
    }
    match error {
        Some(error) => Err(error),
        None => interim(conn, operation, payment).await,
    }
}

/// What is said while the outcome is open. Of an authorization that is an answer; it is not kept, so that the same
/// request finds the outcome when it comes again.
async fn interim(
    conn: &mut PgConnection,
    operation: &Operation,
    payment: &Payment,
) -> Result<wire::Payment, Error> {
    match operation.kind {
        // A release is nothing that the request waits for.
        Kind::Authorize | Kind::Release => view(conn, payment).await,
        Kind::Capture | Kind::Void | Kind::Expire | Kind::Refund => Err(Error::NoAnswer),
    }
}

/// What the end of a request's last operation means to the request.
fn conclusion(operation: &Operation) -> Result<(), Error> {
    match (operation.state, operation.kind) {
        (State::Running | State::Unknown, Kind::Release) => Ok(()),
        (State::Running | State::Unknown, _) => Err(Error::InProgress),
        (State::Succeeded, _) | (State::Refused, Kind::Authorize | Kind::Release) => Ok(()),
        // A refused capture has declined the balance, which the payment says.
        (State::Refused, Kind::Capture) if operation.follows() => Ok(()),
        (State::Refused, kind) => Err(Error::ProcessorRefused {
            kind,
            reason: operation.refusal.clone(),
        }),
        (State::Abandoned, _) => Err(payment::Refusal::State(payment::State::Voided).into()),
    }
}

async fn answer(conn: &mut PgConnection, request: &Request, payment: &Payment) -> Result<Answer, Error> {
    let payment = view(conn, payment).await?;
    let stored = idempotency::answer(conn, &request.facility, &request.key, &payment).await?;
    Ok(Answer {
        payment: wire::Payment::decode(stored.as_slice())?,
        replayed: false,
    })
}

async fn locked(conn: &mut PgConnection, operation: &Operation) -> Result<Payment, Error> {
    store::lock(conn, operation.payment_id)
        .await?
        .ok_or(Error::Orphan(operation.id))
}

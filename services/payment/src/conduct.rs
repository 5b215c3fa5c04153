//! How a mutating request is carried out, whatever is repeated or killed in between:
//!
//! 1. one transaction claims the request and writes down what is wanted of the processor ([`crate::starting`]);
//! 2. the processor is asked, outside of any transaction;
//! 3. one transaction books its answer: payment, ledger, events and the request's answer ([`crate::finishing`]).
//!
//! Requests that come at the same time share these transactions. Between 1 and 3 the operation is leased. When the lease
//! runs out, because the process died or the processor was silent, the repeated request or the background takes the
//! operation over.

use std::{sync::Arc, time::Duration};

use chassis::{Facility, idempotency};
use prost::Message;
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use tokio::time::Instant;
use tracing::Span;
use uuid::Uuid;

use crate::{
    command::{Command, Intent},
    desk::{Answer, Desk, Request, view},
    error::Error,
    exchange::{self, Approach, Heard},
    finishing::{Ended, Finished},
    let_go::let_go,
    operation::{Kind, Operation, State},
    payment::{self, Payment, Purpose},
    processor::Outcome,
    starting::{Started, begun_by},
    store::{
        locks::{self, Target},
        operations,
    },
};

enum Claimed {
    Answered(Answer),
    Leased(Operation, Approach),
    /// Somebody else works on it for this long.
    Waiting(Duration),
}

/// Below this an exchange with the processor is not worth beginning.
const LEAST_BUDGET: Duration = Duration::from_millis(20);
/// What is left of the caller's time for the transaction after the exchange, which may have to wait for the one that runs.
const RESERVE: Duration = Duration::from_millis(150);
/// How long a repeated request waits before it looks again whether the first is still being worked on.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long a request without a deadline waits for another one's answer before it is looked at again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Carries a request out, or gives the answer that it had before.
pub(crate) async fn conduct(desk: &Desk, request: &Request, command: impl Command) -> Result<Answer, Error> {
    let command: Arc<dyn Command> = Arc::new(command);
    let (operation, approach) = loop {
        match claim(desk, request, &command).await? {
            Claimed::Answered(answer) => return Ok(answer),
            Claimed::Leased(operation, approach) => break (operation, approach),
            Claimed::Waiting(leased) => {
                if let Some(answer) = wait(desk, request, leased).await? {
                    return Ok(answer);
                }
            }
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
    loop {
        let heard = exchange(desk, &operation, approach, request).await;
        // What follows an authorization at once is written down together with it.
        let next = operation.then_capture && matches!(heard, Heard::Settled(Outcome::Approved { .. }));
        let capture = match next {
            true => {
                let capture = operation.next(Kind::Capture);
                Some(exchange(desk, &capture, Approach::Send, request).await)
            }
            false => None,
        };
        match hear(desk, facility, &operation, (heard, capture), request).await {
            Ok(Finished::Done(payment)) => return Ok(payment),
            Ok(Finished::Next(next)) => (operation, approach) = (next, Approach::Send),
            Ok(Finished::Elsewhere) => return elsewhere(desk, facility, &operation, request).await,
            Err(error) => {
                if error.is_passing() {
                    let_go(desk, facility, &operation);
                }
                return Err(error);
            }
        }
    }
}

/// Exchanges with the processor for as long as that and the caller have time.
async fn exchange(
    desk: &Desk,
    operation: &Operation,
    approach: Approach,
    request: Option<&Request>,
) -> Heard {
    let timeout = desk.processing.timeout();
    let budget = request.map_or(timeout, |request| {
        request.time_left(timeout + RESERVE).saturating_sub(RESERVE)
    });
    match budget < LEAST_BUDGET {
        true => Heard::OutOfTime,
        false => exchange::with(&*desk.processor, operation, approach, budget).await,
    }
}

async fn claim(desk: &Desk, request: &Request, command: &Arc<dyn Command>) -> Result<Claimed, Error> {
    let started = loop {
        let intent = Intent::new(request, command, desk.processing.lease());
        match desk.starter.submit(intent, request.deadline).await {
            Ok(Ok(Started::Again)) => {}
            Ok(started) => break started,
            Err(refused) => break Err(refused.into()),
        }
    };
    let started = match started {
        Err(error) if error.is_begun_before() => again(desk, request).await?.ok_or(error),
        started => started,
    };
    match started? {
        Started::Answered(answer) => Ok(Claimed::Answered(answer)),
        Started::Wanted(operation) => Ok(Claimed::Leased(operation, Approach::Send)),
        Started::Known(root_id) => resume(desk, request, root_id).await,
        // The loop above has gone on.
        Started::Again => Ok(Claimed::Waiting(Duration::ZERO)),
    }
}

/// A request that came in the way of what another one under its id has begun.
async fn again(desk: &Desk, request: &Request) -> Result<Option<Started>, Error> {
    let mut tx = desk.database.begin(&request.facility).await?;
    let wanted = (&request.facility, Uuid::nil(), Some(&request.key));
    let begun = locks::standing(&mut tx, &[wanted]).await?.pop();
    tx.commit().await?;
    let begun = begun.and_then(|(_, begun)| begun);
    begun.map(|begun| begun_by(&begun, request)).transpose()
}

/// Looks how far the first request has come, whose first operation is `root_id`.
async fn resume(desk: &Desk, request: &Request, root_id: Uuid) -> Result<Claimed, Error> {
    let mut tx = desk.database.begin(&request.facility).await?;
    let claimed = look(desk, &mut tx, request, root_id).await?;
    tx.commit().await?;
    if let Claimed::Answered(_) = claimed {
        idempotency::announce(&desk.database, &request.facility, &request.key);
    }
    Ok(claimed)
}

async fn look(
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
                let payment = locked(conn, &request.facility, &operation).await?;
                interim(&operation, payment.purpose)?;
                let payment = view(conn, &payment).await?;
                Ok(Claimed::Answered(Answer {
                    payment,
                    replayed: false,
                }))
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
    let payment = locked(conn, &request.facility, &operation).await?;
    conclusion(&operation)?;
    // The first request may have been answered since this one was claimed; to the caller it is a repetition either way.
    let payment = answer(conn, request, &payment).await?;
    Ok(Claimed::Answered(Answer {
        payment,
        replayed: true,
    }))
}

/// Waits for the first request's answer; none when it is to be looked at again.
async fn wait(desk: &Desk, request: &Request, leased: Duration) -> Result<Option<Answer>, Error> {
    let patience = request.time_left(leased.min(LOOK_AGAIN));
    if patience < LEAST_BUDGET {
        return Err(Error::InProgress);
    }
    let until = Instant::now() + request.time_left(LONGEST_WAIT);
    let found = idempotency::wait(&desk.database, &request.facility, &request.key, patience, until).await?;
    let answer = found.map(|bytes| wire::Payment::decode(bytes.as_slice()));
    Ok(answer.transpose()?.map(|payment| Answer {
        payment,
        replayed: true,
    }))
}

/// The transaction after an exchange.
async fn hear(
    desk: &Desk,
    facility: &Facility,
    operation: &Operation,
    (heard, capture): (Heard, Option<Heard>),
    request: Option<&Request>,
) -> Result<Finished, Error> {
    let ended = Ended {
        facility: facility.clone(),
        operation: operation.clone(),
        heard,
        capture,
        key: request.map(|request| request.key.clone()),
        span: Span::current(),
    };
    desk.finisher.submit(ended, None).await.map_err(Error::from)?
}

/// Somebody else has ended the operation; what follows from it may still be going on.
async fn elsewhere(
    desk: &Desk,
    facility: &Facility,
    operation: &Operation,
    request: Option<&Request>,
) -> Result<wire::Payment, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let last = operations::last_of(&mut tx, operation.root_id).await?;
    let last = last.ok_or(Error::Orphan(operation.root_id))?.operation;
    let payment = locked(&mut tx, facility, &last).await?;
    let is_open = last.state == State::Unknown;
    match is_open {
        true => interim(&last, payment.purpose)?,
        false => conclusion(&last)?,
    }
    // What is still open is not kept as the answer.
    let request = request.filter(|_| !is_open);
    let answered = match request {
        Some(request) => answer(&mut tx, request, &payment).await?,
        None => view(&mut tx, &payment).await?,
    };
    tx.commit().await?;
    if let Some(request) = request {
        idempotency::announce(&desk.database, &request.facility, &request.key);
    }
    Ok(answered)
}

/// Whether something can be said while the outcome is open: of an authorization, and of a share that is captured with it,
/// how it stands. That is not kept, so that the same request finds the outcome when it comes again.
pub(crate) fn interim(operation: &Operation, purpose: Purpose) -> Result<(), Error> {
    match operation.kind {
        // A release is nothing that the request waits for.
        Kind::Authorize | Kind::Release => Ok(()),
        Kind::Capture if !operation.is_waited_for(purpose) => Ok(()),
        Kind::Capture | Kind::Void | Kind::Expire | Kind::Refund => Err(Error::NoAnswer),
    }
}

/// What the end of a request's last operation means to the request.
pub(crate) fn conclusion(operation: &Operation) -> Result<(), Error> {
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

async fn answer(
    conn: &mut PgConnection,
    request: &Request,
    payment: &Payment,
) -> Result<wire::Payment, Error> {
    let own = view(conn, payment).await?.encode_to_vec();
    let stored = idempotency::answer_all(conn, &[(&request.facility, &request.key, own)]).await?;
    let bytes = stored.into_iter().next().unwrap_or_default();
    Ok(wire::Payment::decode(bytes.as_slice())?)
}

async fn locked(
    conn: &mut PgConnection,
    facility: &Facility,
    operation: &Operation,
) -> Result<Payment, Error> {
    let locked = locks::lock_one(conn, facility, Target::Payment(operation.payment_id)).await?;
    Ok(locked.ok_or(Error::Orphan(operation.id))?.payment)
}

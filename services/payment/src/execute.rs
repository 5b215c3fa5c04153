//! Executes a mutating request in three steps, so that its effects happen once even if it is repeated or the
//! process dies in between:
//!
//! 1. one transaction claims the idempotency key and inserts the operation for the processor
//!    ([`crate::begin_operations`]);
//! 2. the processor is called, outside of any transaction;
//! 3. one transaction records its reply: payment, ledger, events and the stored response
//!    ([`crate::record_outcomes`]).
//!
//! Concurrent requests share these transactions. Between 1 and 3 the operation is leased. If the lease expires
//! because the process died or the processor did not answer, a repeated request or the background worker leases
//! the operation.

use std::{sync::Arc, time::Duration};

use chassis::{Facility, idempotency};
use prost::Message;
use proto::payment::v1 as wire;
use sqlx::PgConnection;
use tokio::time::Instant;
use tracing::Span;
use uuid::Uuid;

use crate::{
    app::App,
    begin_operations::{BeginResult, duplicate_of},
    call_processor::{self, Mode, ProcessorReply},
    command::{Command, PendingCommand},
    error::Error,
    operation::{Kind, Operation, State},
    operation_result::{final_result, interim_result},
    payment::Payment,
    processor::Outcome,
    record_outcomes::{FinishedCall, RecordResult},
    release_lease,
    request::Request,
    response::{Response, encode_payment},
    store::{
        locks::{self, Target},
        operations,
    },
};

enum Progress {
    Done(Response),
    Leased(Operation, Mode),
    /// Another request or worker holds the lease for this long.
    Waiting(Duration),
}

/// With less time than this the processor is not called.
const MIN_CALL_BUDGET: Duration = Duration::from_millis(20);
/// Time reserved before the caller's deadline for the transaction after the call, which may have to queue.
const RECORD_RESERVE: Duration = Duration::from_millis(150);
/// How often a repeated request checks whether the first one still holds the lease.
const RECHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a request without a deadline waits for the first request's response before it checks the operation
/// again.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Executes a request, or returns the response that is stored for its key.
pub(crate) async fn run(app: &App, request: &Request, command: impl Command) -> Result<Response, Error> {
    let command: Arc<dyn Command> = Arc::new(command);
    let (operation, mode) = loop {
        match begin(app, request, &command).await? {
            Progress::Done(response) => return Ok(response),
            Progress::Leased(operation, mode) => break (operation, mode),
            Progress::Waiting(leased) => {
                if let Some(response) = wait(app, request, leased).await? {
                    return Ok(response);
                }
            }
        }
    };
    complete(app, &request.facility, operation, mode, Some(request))
        .await
        .map(|payment| Response {
            payment,
            replayed: false,
        })
}

/// Completes an operation that the caller has leased, and the operations that follow from it.
pub(crate) async fn complete(
    app: &App,
    facility: &Facility,
    mut operation: Operation,
    mut mode: Mode,
    request: Option<&Request>,
) -> Result<wire::Payment, Error> {
    loop {
        let reply = call(app, &operation, mode, request).await;
        // A capture that follows its authorization at once is recorded in the same transaction.
        let is_captured_next =
            operation.then_capture && matches!(reply, ProcessorReply::Completed(Outcome::Approved { .. }));
        let capture = if is_captured_next {
            let capture = operation.next(Kind::Capture);
            Some(call(app, &capture, Mode::Send, request).await)
        } else {
            None
        };
        match record(app, facility, &operation, (reply, capture), request).await {
            Ok(RecordResult::Done(payment)) => return Ok(payment),
            Ok(RecordResult::Next(next)) => (operation, mode) = (next, Mode::Send),
            Ok(RecordResult::AlreadyEnded) => return read_result(app, facility, &operation, request).await,
            Err(error) => {
                if error.is_transient() {
                    release_lease::spawn(app, facility, &operation);
                }
                return Err(error);
            }
        }
    }
}

/// Calls the processor for as long as its timeout and the caller's deadline allow.
async fn call(app: &App, operation: &Operation, mode: Mode, request: Option<&Request>) -> ProcessorReply {
    let timeout = app.processor_settings.timeout();
    let budget = request.map_or(timeout, |request| {
        request
            .time_left(timeout + RECORD_RESERVE)
            .saturating_sub(RECORD_RESERVE)
    });
    if budget < MIN_CALL_BUDGET {
        ProcessorReply::DeadlineExceeded
    } else {
        call_processor::call(&*app.processor, operation, mode, budget).await
    }
}

async fn begin(app: &App, request: &Request, command: &Arc<dyn Command>) -> Result<Progress, Error> {
    let begun = loop {
        let pending = PendingCommand::new(request, command, app.processor_settings.lease());
        match app.begin_batcher.submit(pending, request.deadline).await {
            Ok(Ok(BeginResult::Retry)) => {}
            Ok(begun) => break begun,
            Err(refused) => break Err(refused.into()),
        }
    };
    let begun = match begun {
        Err(error) if error.is_duplicate_request() => find_earlier(app, request).await?.ok_or(error),
        begun => begun,
    };
    match begun? {
        BeginResult::Done(response) => Ok(Progress::Done(response)),
        BeginResult::Opened(operation) => Ok(Progress::Leased(operation, Mode::Send)),
        BeginResult::Duplicate(root_id) => resume(app, request, root_id).await,
        // The loop above never ends with this result.
        BeginResult::Retry => Ok(Progress::Waiting(Duration::ZERO)),
    }
}

/// Finds the operation that an earlier request with the same id has begun and that this one conflicts with.
async fn find_earlier(app: &App, request: &Request) -> Result<Option<BeginResult>, Error> {
    let mut tx = app.database.begin(&request.facility).await?;
    let wanted = (&request.facility, Uuid::nil(), Some(&request.key));
    let found = locks::list_summaries(&mut tx, &[wanted]).await?.pop();
    tx.commit().await?;
    let earlier = found.and_then(|(_, earlier)| earlier);
    earlier.map(|earlier| duplicate_of(&earlier, request)).transpose()
}

/// Continues the request whose first operation is `root_id`.
async fn resume(app: &App, request: &Request, root_id: Uuid) -> Result<Progress, Error> {
    let mut tx = app.database.begin(&request.facility).await?;
    let progress = check_progress(app, &mut tx, request, root_id).await?;
    tx.commit().await?;
    if let Progress::Done(_) = progress {
        idempotency::notify_waiters(&app.database, &request.facility, &request.key);
    }
    Ok(progress)
}

async fn check_progress(
    app: &App,
    conn: &mut PgConnection,
    request: &Request,
    root_id: Uuid,
) -> Result<Progress, Error> {
    let Some(last) = operations::find_last(conn, root_id).await? else {
        return Err(Error::Inconsistent(root_id));
    };
    let operation = last.operation;
    if operation.is_open() {
        return match operation.state {
            State::Unknown => {
                let payment = lock_payment(conn, &request.facility, &operation).await?;
                interim_result(&operation, payment.purpose)?;
                let payment = encode_payment(conn, &payment).await?;
                Ok(Progress::Done(Response {
                    payment,
                    replayed: false,
                }))
            }
            _ if !last.lease_left.is_zero() => Ok(Progress::Waiting(last.lease_left)),
            _ if operations::acquire_lease(conn, operation.id, app.processor_settings.lease()).await? => {
                let attempts = operation.attempts + 1;
                Ok(Progress::Leased(
                    Operation {
                        attempts,
                        ..operation
                    },
                    Mode::Query,
                ))
            }
            _ => Ok(Progress::Waiting(RECHECK_INTERVAL)),
        };
    }
    let payment = lock_payment(conn, &request.facility, &operation).await?;
    final_result(&operation)?;
    // The first request may have been answered since this one began; to the caller it is a repetition either way.
    let payment = store_response(conn, request, &payment).await?;
    Ok(Progress::Done(Response {
        payment,
        replayed: true,
    }))
}

/// Waits for the first request's response; `None` when the operation has to be checked again.
async fn wait(app: &App, request: &Request, leased: Duration) -> Result<Option<Response>, Error> {
    let recheck_after = request.time_left(leased.min(RECHECK_INTERVAL));
    if recheck_after < MIN_CALL_BUDGET {
        return Err(Error::InProgress);
    }
    let until = Instant::now() + request.time_left(MAX_WAIT);
    let found = idempotency::wait_for_response(
        &app.database,
        &request.facility,
        &request.key,
        recheck_after,
        until,
    )
    .await?;
    let payment = found.map(|bytes| wire::Payment::decode(bytes.as_slice()));
    Ok(payment.transpose()?.map(|payment| Response {
        payment,
        replayed: true,
    }))
}

/// Records the replies in the transaction after the calls.
async fn record(
    app: &App,
    facility: &Facility,
    operation: &Operation,
    (reply, capture): (ProcessorReply, Option<ProcessorReply>),
    request: Option<&Request>,
) -> Result<RecordResult, Error> {
    let finished = FinishedCall {
        facility: facility.clone(),
        operation: operation.clone(),
        reply,
        capture,
        key: request.map(|request| request.key.clone()),
        span: Span::current(),
    };
    app.record_batcher
        .submit(finished, None)
        .await
        .map_err(Error::from)?
}

/// Reads the result of an operation that another request or worker has ended. Operations that follow from it may
/// still be open.
async fn read_result(
    app: &App,
    facility: &Facility,
    operation: &Operation,
    request: Option<&Request>,
) -> Result<wire::Payment, Error> {
    let mut tx = app.database.begin(facility).await?;
    let last = operations::find_last(&mut tx, operation.root_id).await?;
    let last = last.ok_or(Error::Inconsistent(operation.root_id))?.operation;
    let payment = lock_payment(&mut tx, facility, &last).await?;
    let is_open = last.state == State::Unknown;
    if is_open {
        interim_result(&last, payment.purpose)?;
    } else {
        final_result(&last)?;
    }
    // A response is not stored while an operation is open.
    let request = request.filter(|_| !is_open);
    let payment = match request {
        Some(request) => store_response(&mut tx, request, &payment).await?,
        None => encode_payment(&mut tx, &payment).await?,
    };
    tx.commit().await?;
    if let Some(request) = request {
        idempotency::notify_waiters(&app.database, &request.facility, &request.key);
    }
    Ok(payment)
}

/// Stores the response under the request's key, unless one is stored already, and returns the stored one.
async fn store_response(
    conn: &mut PgConnection,
    request: &Request,
    payment: &Payment,
) -> Result<wire::Payment, Error> {
    let encoded = encode_payment(conn, payment).await?.encode_to_vec();
    let stored = idempotency::store_responses(conn, &[(&request.facility, &request.key, encoded)]).await?;
    let bytes = stored.into_iter().next().unwrap_or_default();
    Ok(wire::Payment::decode(bytes.as_slice())?)
}

async fn lock_payment(
    conn: &mut PgConnection,
    facility: &Facility,
    operation: &Operation,
) -> Result<Payment, Error> {
    let locked = locks::lock_payment(conn, facility, Target::Payment(operation.payment_id)).await?;
    Ok(locked.ok_or(Error::Inconsistent(operation.id))?.payment)
}

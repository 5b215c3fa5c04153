//! The errors of the use cases, and the gRPC status of each.

use std::time::Duration;

use chassis::{batch::SubmitError, idempotency, postgres::Fault, status};
use money::Currency;
use tonic::Status;
use uuid::Uuid;

use crate::{
    ledger::Unbookable,
    operation::Kind,
    payment::{Refusal, State},
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Also if the payment belongs to another facility.
    #[error("no such payment: {0}")]
    NotFound(String),
    #[error("{field} {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the order has nothing that waits for a payment method; its payment is {0}")]
    NothingDue(State),
    /// The payment has another open operation.
    #[error("another operation on this payment is in progress")]
    Busy,
    /// A concurrent request has created the payment.
    #[error("another request was quicker")]
    LostRace,
    #[error("the processor has refused: {reason}")]
    ProcessorRefused { kind: Kind, reason: String },
    /// The outcome is not known yet; a background worker resolves it.
    #[error("the processor has not answered; the outcome is being resolved")]
    ProcessorTimeout,
    /// Nothing was sent to the processor.
    #[error("the processor cannot be reached; nothing was sent to it")]
    ProcessorUnreachable,
    #[error("the caller's deadline has passed")]
    DeadlineExceeded,
    /// An earlier request with the same key has not ended yet.
    #[error("the same request is still being carried out")]
    InProgress,
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    #[error("a sum in {0} is too large to be returned; request one order, or another currency")]
    SumTooLarge(Currency),
    #[error("the ledger transaction cannot be booked")]
    Ledger(#[from] Unbookable),
    #[error("the event cannot be appended")]
    Event(#[from] events::Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("a stored response cannot be decoded")]
    StoredResponse(#[from] prost::DecodeError),
    /// Rows of the operation or payment with this id are missing or contradict each other.
    #[error("the rows of operation or payment {0} are inconsistent")]
    Inconsistent(Uuid),
    /// The request's transaction has not begun, or has failed in a database outage together with another request.
    #[error("the request was not carried out: {}", status.message())]
    NotExecuted { status: Box<Status>, is_transient: bool },
}

impl Error {
    /// Whether the same request has an operation already: it was executed before, and its stored response has
    /// expired.
    pub(crate) fn is_duplicate_request(&self) -> bool {
        match self {
            Error::Database(error) => error
                .as_database_error()
                .is_some_and(|error| error.constraint() == Some("operation_request")),
            _ => false,
        }
    }

    /// Whether the database is unavailable.
    pub fn is_outage(&self) -> bool {
        self.fault() == Some(Fault::Outage)
    }

    /// Whether the database failed in a transient way: the same work may succeed if it is repeated.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::NotExecuted { is_transient, .. } => *is_transient,
            error => error.fault().is_some_and(Fault::is_transient),
        }
    }

    fn fault(&self) -> Option<Fault> {
        match self {
            Error::Database(error)
            | Error::Event(events::Error::Database(error))
            | Error::Idempotency(idempotency::Error::Database(error)) => Some(Fault::classify(error)),
            _ => None,
        }
    }
}

impl From<SubmitError<Error>> for Error {
    fn from(refused: SubmitError<Error>) -> Self {
        let is_transient = refused.is_transient();
        refused.into_error().unwrap_or_else(|status| Self::NotExecuted {
            status: Box::new(status),
            is_transient,
        })
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NotFound(id) => status::not_found("payment", id),
            Error::Invalid { field, problem } => status::invalid_field(field, problem),
            Error::Refused(refusal) => payment_refusal(&refusal),
            Error::NothingDue(state) => status::failed_precondition(nothing_due(state), text),
            Error::Busy => status::aborted("PAYMENT_BUSY", text, Duration::from_millis(200)),
            Error::LostRace => status::aborted("LOST_RACE", text, Duration::from_millis(50)),
            Error::ProcessorRefused { kind, .. } => {
                status::failed_precondition(processor_refused(kind), text)
            }
            Error::ProcessorTimeout => status::unavailable("PROCESSOR_TIMEOUT", text),
            Error::ProcessorUnreachable => status::unavailable("PROCESSOR_UNREACHABLE", text),
            Error::SumTooLarge(_) => status::failed_precondition("SUM_TOO_LARGE", text),
            Error::NotExecuted { status, .. } => *status,
            Error::DeadlineExceeded => status::deadline_exceeded(),
            Error::InProgress => idempotency::in_progress(),
            Error::Idempotency(error) => error.into(),
            Error::Database(error) if is_ledger_constraint(&error) => status::internal(&error),
            Error::Database(error) => status::database(&error),
            Error::Event(events::Error::Database(error)) => status::database(&error),
            error @ (Error::Ledger(_)
            | Error::Event(_)
            | Error::StoredResponse(_)
            | Error::Inconsistent(_)) => status::internal(&error),
        }
    }
}

/// Whether a constraint of the ledger failed. Only a fault of this service breaks one, never a request.
fn is_ledger_constraint(error: &sqlx::Error) -> bool {
    let constraint = error.as_database_error().and_then(|error| error.constraint());
    constraint.is_some_and(|name| name.starts_with("ledger_"))
}

fn payment_refusal(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::State(state) => status::failed_precondition(wrong_state(*state), text),
        Refusal::Exists(_) => status::already_exists("PAYMENT_EXISTS", text),
        Refusal::Amount { .. } => status::failed_precondition("AMOUNT_MISMATCH", text),
        Refusal::Currency { .. } => status::failed_precondition("CURRENCY_MISMATCH", text),
        Refusal::BeyondAuthorized { .. } => status::failed_precondition("CAPTURE_EXCEEDS_AUTHORIZED", text),
        Refusal::BeyondCaptured { .. } => status::failed_precondition("REFUND_EXCEEDS_CAPTURED", text),
        Refusal::Overflow => status::invalid_field("amount", text),
    }
}

fn wrong_state(state: State) -> &'static str {
    match state {
        State::Created => "PAYMENT_NOT_AUTHORIZED",
        State::Authorizing => "PAYMENT_IN_PROGRESS",
        State::Authorized => "PAYMENT_NOT_CAPTURED",
        State::Captured => "PAYMENT_CAPTURED",
        State::Declined => "PAYMENT_DECLINED",
        State::Voided => "PAYMENT_VOIDED",
        State::Expired => "PAYMENT_EXPIRED",
        State::Unknown => "PAYMENT_OUTCOME_UNKNOWN",
    }
}

fn nothing_due(state: State) -> &'static str {
    match state {
        State::Authorized | State::Captured | State::Created | State::Declined => "NOTHING_DUE",
        state => wrong_state(state),
    }
}

fn processor_refused(kind: Kind) -> &'static str {
    match kind {
        Kind::Authorize => "AUTHORIZATION_REFUSED",
        Kind::Capture => "CAPTURE_REFUSED",
        Kind::Void | Kind::Expire | Kind::Release => "VOID_REFUSED",
        Kind::Refund => "REFUND_REFUSED",
    }
}

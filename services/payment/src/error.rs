//! Everything that can go wrong in a use case, and the status that it becomes.

use std::time::Duration;

use chassis::{batch::Refused, idempotency, postgres::Fault, status};
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
    /// Also when it is another facility's.
    #[error("no such payment: {0}")]
    NotFound(String),
    #[error("{field} {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the order has nothing that waits for a payment method; its payment is {0}")]
    NothingDue(State),
    /// Something else is being asked of the processor for this payment.
    #[error("another operation on this payment is under way")]
    Busy,
    /// Another request has created the payment in this moment.
    #[error("another request was quicker")]
    LostRace,
    #[error("the processor has refused: {reason}")]
    ProcessorRefused { kind: Kind, reason: String },
    /// The outcome is not known yet; it is found out in the background.
    #[error("the processor has not answered; the outcome is being found out")]
    NoAnswer,
    /// Nothing was sent to the processor.
    #[error("the processor cannot be reached; nothing was sent to it")]
    Unreachable,
    #[error("the caller's time is over")]
    OutOfTime,
    /// The same request is still being carried out.
    #[error("the same request is still being carried out")]
    InProgress,
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    #[error("a sum in {0} is too large to be told; ask for one order, or for another currency")]
    SumTooLarge(Currency),
    #[error("the ledger cannot take it")]
    Ledger(#[from] Unbookable),
    #[error("the event cannot be appended")]
    Event(#[from] events::Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("a stored answer cannot be read")]
    Answer(#[from] prost::DecodeError),
    /// Rows contradict each other.
    #[error("operation {0} has lost its payment")]
    Orphan(Uuid),
    /// Its transaction has not begun, or another request of that has failed with the database.
    #[error("the request was not carried out: {}", status.message())]
    NotCarriedOut { status: Box<Status>, is_passing: bool },
}

impl Error {
    /// Whether another operation of the same request stands in the way: it was carried out before, so long ago that its
    /// answer is forgotten.
    pub(crate) fn is_begun_before(&self) -> bool {
        match self {
            Error::Database(error) => error
                .as_database_error()
                .is_some_and(|error| error.constraint() == Some("operation_request")),
            _ => false,
        }
    }

    /// Whether the database cannot be used now.
    pub fn is_outage(&self) -> bool {
        self.fault() == Some(Fault::Outage)
    }

    /// Whether the database failed in a way that passes: the same work may succeed when it is done again.
    pub fn is_passing(&self) -> bool {
        match self {
            Error::NotCarriedOut { is_passing, .. } => *is_passing,
            error => error.fault().is_some_and(Fault::is_passing),
        }
    }

    fn fault(&self) -> Option<Fault> {
        match self {
            Error::Database(error)
            | Error::Event(events::Error::Database(error))
            | Error::Idempotency(idempotency::Error::Database(error)) => Some(Fault::of(error)),
            _ => None,
        }
    }
}

impl From<Refused<Error>> for Error {
    fn from(refused: Refused<Error>) -> Self {
        let is_passing = refused.is_passing();
        refused
            .into_failure()
            .unwrap_or_else(|status| Self::NotCarriedOut {
                status: Box::new(status),
                is_passing,
            })
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NotFound(id) => status::not_found("payment", id),
            Error::Invalid { field, problem } => status::invalid_field(field, problem),
            Error::Refused(refusal) => refused(&refusal),
            Error::NothingDue(state) => status::failed_precondition(nothing_due(state), text),
            Error::Busy => status::aborted("PAYMENT_BUSY", text, Duration::from_millis(200)),
            Error::LostRace => status::aborted("LOST_RACE", text, Duration::from_millis(50)),
            Error::ProcessorRefused { kind, .. } => {
                status::failed_precondition(processor_refused(kind), text)
            }
            Error::NoAnswer => status::unavailable("PROCESSOR_TIMEOUT", text),
            Error::Unreachable => status::unavailable("PROCESSOR_UNREACHABLE", text),
            Error::SumTooLarge(_) => status::failed_precondition("SUM_TOO_LARGE", text),
            Error::NotCarriedOut { status, .. } => *status,
            Error::OutOfTime => status::out_of_time(),
            Error::InProgress => idempotency::in_progress(),
            Error::Idempotency(error) => error.into(),
            Error::Database(error) if is_ledgers(&error) => status::internal(&error),
            Error::Database(error) => status::database(&error),
            Error::Event(events::Error::Database(error)) => status::database(&error),
            error @ (Error::Ledger(_) | Error::Event(_) | Error::Answer(_) | Error::Orphan(_)) => {
                status::internal(&error)
            }
        }
    }
}

/// The ledger's own rules are broken by a fault of this service, never by a request: what was asked for is not refused.
fn is_ledgers(error: &sqlx::Error) -> bool {
    let constraint = error.as_database_error().and_then(|error| error.constraint());
    constraint.is_some_and(|name| name.starts_with("ledger_"))
}

fn refused(refusal: &Refusal) -> Status {
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

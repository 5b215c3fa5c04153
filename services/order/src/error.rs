//! Why a use case fails, and the status that its caller gets.

use std::time::Duration;

use chassis::{Violations, auth, batch, idempotency, postgres::Fault, status};
use tonic::Status;
use uuid::Uuid;

use crate::{order::WrongState, refund::PlanError, saga::InterventionError};

/// Why a use case fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the request is invalid: {0}")]
    Invalid(Violations),
    #[error("no such order: {0}")]
    OrderNotFound(String),
    #[error("no such saga: {0}")]
    SagaNotFound(Uuid),
    /// The order does not allow it: the reason and the words.
    #[error("{1}")]
    Precondition(&'static str, String),
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The saga that decides about the order needs a person: which one, and where it stands.
    #[error("saga {0}, which decides about the order, is stuck at {1}")]
    SagaStuck(Uuid, String),
    /// A saga is deciding about the order right now.
    #[error("the order is being worked on")]
    Busy,
    /// The facility has an order with this number.
    #[error("the facility has an order with this reference already")]
    ReferenceTaken,
    /// The order has a refund with this number.
    #[error("the order has a refund with this reference already")]
    RefundReferenceTaken,
    /// The same request has made this before, so long ago that its answer is forgotten.
    #[error("the same request has been carried out before")]
    AlreadyCreated,
    /// The same decision has been carried out before.
    #[error("the same decision has been carried out before")]
    AlreadyResolved,
    /// The same request still runs.
    #[error("the same request is still being carried out")]
    InProgress,
    /// Another process has taken the saga over.
    #[error("another process has taken the saga over")]
    LeaseLost,
    /// Its transaction has not begun, or that of another request, which it shared, has failed with the database.
    #[error("the request was not carried out: {}", status.message())]
    NotExecuted { status: Box<Status>, is_transient: bool },
    #[error("a call that the request needs has failed")]
    Upstream(#[source] Box<Status>),
    #[error("the request cannot be identified")]
    Key(#[from] idempotency::Error),
    #[error("no token can be signed")]
    Token(#[from] auth::SigningError),
    #[error("the events cannot be written")]
    Events(#[from] events::Error),
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

/// What callers who lost a race are told to wait.
const RACE_RETRY_DELAY: Duration = Duration::from_millis(100);

impl Error {
    /// Whether the same may succeed a moment later: the database failed in a way that passes, or two requests met.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Database(error)
            | Error::Events(events::Error::Database(error))
            | Error::Key(idempotency::Error::Database(error)) => Fault::of(error).is_passing(),
            Error::Busy
            | Error::AlreadyCreated
            | Error::AlreadyResolved
            | Error::InProgress
            | Error::LeaseLost => true,
            Error::NotExecuted { is_transient, .. } => *is_transient,
            _ => false,
        }
    }
}

impl Error {
    /// Whether the database cannot be used now.
    pub fn is_outage(&self) -> bool {
        match self {
            Error::Database(error)
            | Error::Events(events::Error::Database(error))
            | Error::Key(idempotency::Error::Database(error)) => Fault::of(error) == Fault::Outage,
            _ => false,
        }
    }
}

impl From<batch::Refused<Error>> for Error {
    fn from(refused: batch::Refused<Error>) -> Error {
        let is_transient = refused.is_passing();
        let not_carried_out = |status| Error::NotExecuted {
            status: Box::new(status),
            is_transient,
        };
        refused.into_failure().unwrap_or_else(not_carried_out)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        match error {
            Error::Invalid(violations) => status::invalid(&violations),
            Error::OrderNotFound(name) => status::not_found("order", name),
            Error::SagaNotFound(id) => status::not_found("saga", id),
            Error::Precondition(reason, text) => status::failed_precondition(reason, text),
            Error::WrongState(wrong) => status::failed_precondition("ORDER_WRONG_STATE", wrong.to_string()),
            error @ Error::SagaStuck(..) => status::failed_precondition("SAGA_STUCK", error.to_string()),
            Error::Busy => status::aborted(
                "ORDER_BUSY",
                "the order is being worked on; try again in a moment",
                RACE_RETRY_DELAY,
            ),
            Error::ReferenceTaken => status::already_exists(
                "REFERENCE_TAKEN",
                "the facility has an order with this reference already",
            ),
            Error::RefundReferenceTaken => status::already_exists(
                "REFUND_REFERENCE_TAKEN",
                "the order has a refund with this reference already",
            ),
            Error::AlreadyCreated | Error::AlreadyResolved | Error::InProgress => idempotency::in_progress(),
            Error::LeaseLost => status::aborted("LOST_RACE", "another process was quicker", RACE_RETRY_DELAY),
            Error::Upstream(status) | Error::NotExecuted { status, .. } => *status,
            Error::Key(error) => error.into(),
            Error::Events(events::Error::Database(error)) | Error::Database(error) => {
                status::database(&error)
            }
            error @ (Error::Token(_) | Error::Events(_)) => status::internal(&error),
        }
    }
}

/// Constraints that callers can break become their own errors.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        let constraint = error.as_database_error().and_then(|error| error.constraint());
        match constraint {
            Some("placed_order_request" | "order_refund_request") => Error::AlreadyCreated,
            Some("balance_resolution_request") => Error::AlreadyResolved,
            Some("placed_order_reference") => Error::ReferenceTaken,
            Some("order_refund_reference") => Error::RefundReferenceTaken,
            _ => Error::Database(error),
        }
    }
}

impl From<PlanError> for Error {
    fn from(refused: PlanError) -> Error {
        match refused {
            PlanError::Invalid(violations) => Error::Invalid(violations),
            PlanError::Precondition(reason, text) => Error::Precondition(reason, text),
        }
    }
}

impl From<InterventionError> for Error {
    fn from(error: InterventionError) -> Error {
        match error {
            InterventionError::Refused(reason, text) => Error::Precondition(reason, text),
            InterventionError::WrongState(wrong) => Error::WrongState(wrong),
        }
    }
}

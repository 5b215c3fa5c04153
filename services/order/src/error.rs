//! The errors of use cases, and the gRPC statuses they map to.

use std::time::Duration;

use chassis::{Violations, auth, batch, idempotency, postgres::Fault, status};
use tonic::Status;
use uuid::Uuid;

use crate::{
    order::WrongState,
    refund::PlanError,
    saga::{self, InterventionError, Saga},
};

/// The error of a use case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the request is invalid: {0}")]
    Invalid(Violations),
    #[error("no such order: {0}")]
    OrderNotFound(String),
    #[error("no such saga: {0}")]
    SagaNotFound(Uuid),
    /// The order does not allow the request: the reason and the message.
    #[error("{1}")]
    Precondition(&'static str, String),
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The saga that is changing the order is stuck: its id and its current step.
    #[error("saga {0} of the order is stuck at {1}")]
    SagaStuck(Uuid, String),
    /// A saga is changing the order.
    #[error("a saga is changing the order")]
    Busy,
    /// The facility has an order with this reference.
    #[error("the facility has an order with this reference already")]
    ReferenceTaken,
    /// The order has a refund with this reference.
    #[error("the order has a refund with this reference already")]
    RefundReferenceTaken,
    /// The same request has created a row before, and its stored response has been deleted.
    #[error("the same request has been carried out before")]
    AlreadyCreated,
    /// The same request has resolved this before.
    #[error("the same decision has been carried out before")]
    AlreadyResolved,
    /// The same request is still running.
    #[error("the same request is still being carried out")]
    InProgress,
    /// Another process holds the saga's lease.
    #[error("another process has taken the saga over")]
    LeaseLost,
    /// The transaction did not begin, or the transaction that it shared with other requests failed in the
    /// database.
    #[error("the request was not carried out: {}", status.message())]
    NotExecuted { status: Box<Status>, is_transient: bool },
    #[error("a call that the request needs has failed")]
    Upstream(#[source] Box<Status>),
    #[error("the idempotency key could not be processed")]
    Key(#[from] idempotency::Error),
    #[error("the service's token could not be signed")]
    Token(#[from] auth::SigningError),
    #[error("the events could not be appended")]
    Events(#[from] events::Error),
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

/// The retry delay in statuses for callers that lost a race.
const RACE_RETRY_DELAY: Duration = Duration::from_millis(100);

impl Error {
    /// Whether a retry a moment later may succeed: a transient database error, or a race between two requests.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Database(error)
            | Error::Events(events::Error::Database(error))
            | Error::Key(idempotency::Error::Database(error)) => Fault::classify(error).is_transient(),
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
    /// The error for requests that want to change an order while `saga` is running.
    pub fn busy(saga: &Saga) -> Error {
        let step = saga.action().map(|action| action.step.name());
        match (saga.state, step) {
            (saga::State::Stuck, Some(step)) => Error::SagaStuck(saga.id, step.to_owned()),
            _ => Error::Busy,
        }
    }

    /// Whether the database is unavailable.
    pub fn is_outage(&self) -> bool {
        match self {
            Error::Database(error)
            | Error::Events(events::Error::Database(error))
            | Error::Key(idempotency::Error::Database(error)) => Fault::classify(error) == Fault::Outage,
            _ => false,
        }
    }
}

impl From<batch::SubmitError<Error>> for Error {
    fn from(refused: batch::SubmitError<Error>) -> Error {
        let is_transient = refused.is_transient();
        let not_carried_out = |status| Error::NotExecuted {
            status: Box::new(status),
            is_transient,
        };
        refused.into_error().unwrap_or_else(not_carried_out)
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
                "a saga is changing the order; try again in a moment",
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
            Error::LeaseLost => status::aborted(
                "LOST_RACE",
                "another process has taken the saga over",
                RACE_RETRY_DELAY,
            ),
            Error::Upstream(status) | Error::NotExecuted { status, .. } => *status,
            Error::Key(error) => error.into(),
            Error::Events(events::Error::Database(error)) | Error::Database(error) => {
                status::database(&error)
            }
            error @ (Error::Token(_) | Error::Events(_)) => status::internal(&error),
        }
    }
}

/// Violations of the constraints that callers can break map to their own errors.
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

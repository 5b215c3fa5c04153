//! Why a use case fails, and the status that its caller gets.

use std::time::Duration;

use chassis::{batch::SubmitError, postgres::Fault};
use tonic::{Code, Status};

use crate::{claim::WrongState, rules::Violation};

/// Why a use case fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All broken rules.
    #[error("{} rules are broken", .0.len())]
    Invalid(Vec<Violation>),
    /// The facility has no claim with this id or number.
    #[error("no such claim: {0}")]
    ClaimNotFound(String),
    /// The facility has a claim with this number already.
    #[error("the facility has a claim with this number already; to submit it again, resubmit it")]
    ClaimKnown,
    /// The order has a claim already.
    #[error("the order has a claim already")]
    OrderBilled,
    /// The order's claim was withdrawn before it was prepared.
    #[error("the order's claim was withdrawn")]
    OrderWithdrawn,
    /// The claim's state does not allow the step.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The payer has paid on the claim.
    #[error("the payer has paid on the claim; it cannot be withdrawn")]
    Paid,
    /// The claim is being submitted to the post office by another call.
    #[error("the claim is being submitted to the post office")]
    SubmissionInProgress,
    /// The same request is still running.
    #[error("the same request is still being carried out")]
    InProgress,
    /// The post office cannot be reached or did not answer in time.
    #[error("the post office cannot be reached: {0}")]
    PostOffice(String),
    /// The idempotency key cannot be claimed.
    #[error(transparent)]
    Idempotency(#[from] chassis::idempotency::Error),
    /// An event cannot be appended to the outbox.
    #[error("an event cannot be appended")]
    Events(#[from] events::Error),
    /// A statement failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// There is no parked line with this id.
    #[error("no such parked line: {0}")]
    ParkedLineNotFound(i64),
    /// The claim of a parked line has not been submitted.
    #[error("the claim {0} has not been submitted: the line cannot be booked yet")]
    ClaimNotSubmitted(String),
    /// The claim of a parked line has no activity with this id.
    #[error("the claim has no activity {0}: the line cannot be booked on it")]
    UnknownActivity(String),
    /// The upload cannot be written to or read from the spool folder.
    #[error("the spool folder cannot be used")]
    Upload(#[from] std::io::Error),
    /// The caller's stream failed, or a field is invalid before any rule is checked.
    #[error("the request cannot be read")]
    Request(#[source] Box<Status>),
}

impl Error {
    /// Whether the same work may succeed when it is retried: the database failed for a moment or is overloaded.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Request(status) => matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            ),
            Error::Database(error)
            | Error::Events(events::Error::Database(error))
            | Error::Idempotency(chassis::idempotency::Error::Database(error)) => {
                chassis::postgres::Fault::classify(error).is_transient()
            }
            _ => false,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error::Request(Box::new(status))
    }
}

impl From<SubmitError<Error>> for Error {
    fn from(refused: SubmitError<Error>) -> Error {
        refused.into_error().unwrap_or_else(Error::from)
    }
}

impl Error {
    /// Whether the database is unavailable.
    pub fn is_outage(&self) -> bool {
        match self {
            Error::Database(error)
            | Error::Events(events::Error::Database(error))
            | Error::Idempotency(chassis::idempotency::Error::Database(error)) => {
                Fault::classify(error) == Fault::Outage
            }
            _ => false,
        }
    }

    /// Whether the transaction conflicted with another one: an immediate retry may succeed.
    pub fn is_contention(&self) -> bool {
        match self {
            Error::Database(error) | Error::Events(events::Error::Database(error)) => {
                matches!(Fault::classify(error), Fault::Contention | Fault::StalePlan)
            }
            _ => false,
        }
    }
}

/// How long a caller should wait before it sends a file again after the spool folder was full.
const SPOOL_FULL_RETRY: Duration = Duration::from_secs(5);

/// The status for an upload that could not be stored: the spool folder is full or unusable.
fn upload_status(error: &std::io::Error) -> Status {
    use chassis::status;
    use std::io::ErrorKind::{
        FileTooLarge, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => {
            tracing::error!(error.message = %error, "the spool folder is full");
            let text = "there is no space to store the file; try again later";
            status::resource_exhausted("SPOOL_FULL", text, SPOOL_FULL_RETRY)
        }
        ReadOnlyFilesystem | PermissionDenied | NotFound => {
            tracing::error!(error.message = %error, "the spool folder cannot be written to");
            let text = "files cannot be received now: the service's spool folder cannot be used";
            status::unavailable("SPOOL_UNUSABLE", text)
        }
        _ => status::internal(error),
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        use chassis::status;
        let text = error.to_string();
        match error {
            Error::Invalid(violations) => {
                let mut fields = chassis::Violations::new();
                for violation in violations {
                    fields.add(&violation.field, violation.description());
                }
                status::invalid(&fields)
            }
            Error::ClaimNotFound(id) => status::not_found("claim", id),
            Error::ClaimKnown => status::already_exists("CLAIM_KNOWN", text),
            Error::OrderBilled => status::already_exists("ORDER_BILLED", text),
            Error::OrderWithdrawn => status::failed_precondition("ORDER_WITHDRAWN", text),
            Error::WrongState(_) => status::failed_precondition("WRONG_STATE", text),
            Error::Paid => status::failed_precondition("CLAIM_PAID", text),
            Error::SubmissionInProgress => {
                status::aborted("FILING_IN_PROGRESS", text, Duration::from_millis(200))
            }
            Error::InProgress => chassis::idempotency::in_progress(),
            Error::PostOffice(_) => status::unavailable("POST_OFFICE_UNAVAILABLE", text),
            Error::Idempotency(error) => error.into(),
            Error::Events(events::Error::Database(error)) | Error::Database(error) => {
                status::database(&error)
            }
            Error::Events(error) => status::internal(&error),
            Error::ParkedLineNotFound(id) => status::not_found("parked line", id),
            Error::ClaimNotSubmitted(_) => status::failed_precondition("CLAIM_NOT_FILED", text),
            Error::UnknownActivity(_) => status::failed_precondition("ACTIVITY_UNKNOWN", text),
            Error::Upload(error) => upload_status(&error),
            Error::Request(status) => *status,
        }
    }
}

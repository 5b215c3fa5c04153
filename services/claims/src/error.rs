//! Everything that a use case can answer instead of its result.

use std::time::Duration;

use chassis::{batch::Refused, postgres::Fault};
use tonic::{Code, Status};

use crate::{claim::WrongState, rules::Violation};

/// Why a use case did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Rules are broken; all of them are named.
    #[error("{} rules are broken", .0.len())]
    Invalid(Vec<Violation>),
    /// The facility has no such claim.
    #[error("no such claim: {0}")]
    NoSuchClaim(String),
    /// The facility has this claim number already.
    #[error("the claim is known already: to file it again, resubmit it")]
    ClaimKnown,
    /// The order has a claim already.
    #[error("the order has a claim already")]
    OrderBilled,
    /// The order's claim was withdrawn before it arrived.
    #[error("the order's claim was withdrawn")]
    OrderWithdrawn,
    /// The claim's state does not allow it.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The payer has paid on the claim.
    #[error("the payer has paid on the claim; it cannot be withdrawn")]
    Paid,
    /// The claim is on its way to the post office at this moment.
    #[error("the claim is being handed to the post office")]
    FilingInProgress,
    /// The same request is being carried out.
    #[error("the same request is still being carried out")]
    InProgress,
    /// The post office cannot be reached, or answered in no time.
    #[error("the post office cannot be reached: {0}")]
    PostOffice(String),
    /// The request's key cannot be claimed.
    #[error(transparent)]
    Idempotency(#[from] chassis::idempotency::Error),
    /// An event cannot be appended.
    #[error("an event cannot be appended")]
    Events(#[from] events::Error),
    /// The database fails.
    #[error("the database fails")]
    Database(#[from] sqlx::Error),
    /// No line of this identifier waits.
    #[error("no such parked line: {0}")]
    NoSuchParkedLine(i64),
    /// The claim of a parked line has not been filed.
    #[error("the claim {0} has not been filed: the line cannot be booked yet")]
    NotFiled(String),
    /// The claim of a parked line has no such activity.
    #[error("the claim has no activity {0}: the line cannot be booked on it")]
    UnknownActivity(String),
    /// The spool folder cannot be used.
    #[error("the spool cannot be used")]
    Spool(#[from] std::io::Error),
    /// The caller's stream broke, or what it sent is refused before any rule is looked at.
    #[error("the request cannot be read")]
    Request(#[source] Box<Status>),
}

impl Error {
    /// Whether the database failed in a way that passes, or too much waits for it: the same work may succeed when it is done
    /// again.
    pub fn is_passing(&self) -> bool {
        match self {
            Error::Request(status) => matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            ),
            Error::Database(error)
            | Error::Events(events::Error::Database(error))
            | Error::Idempotency(chassis::idempotency::Error::Database(error)) => {
                chassis::postgres::Fault::of(error).is_passing()
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

impl From<Refused<Error>> for Error {
    fn from(refused: Refused<Error>) -> Error {
        refused.into_failure().unwrap_or_else(Error::from)
    }
}

impl Error {
    /// Whether the database cannot be used now.
    pub fn is_outage(&self) -> bool {
        match self {
            Error::Database(error)
            | Error::Events(events::Error::Database(error))
            | Error::Idempotency(chassis::idempotency::Error::Database(error)) => {
                Fault::of(error) == Fault::Outage
            }
            _ => false,
        }
    }

    /// Whether another transaction was in the way: the same work may succeed at once.
    pub fn is_contention(&self) -> bool {
        match self {
            Error::Database(error) | Error::Events(events::Error::Database(error)) => {
                matches!(Fault::of(error), Fault::Contention | Fault::StalePlan)
            }
            _ => false,
        }
    }
}

/// How long a caller waits before it sends a file again for which there was no room.
const ROOM: Duration = Duration::from_secs(5);

/// The file could not be kept while it came in: the folder is full, or cannot be used.
fn spool(error: &std::io::Error) -> Status {
    use chassis::status;
    use std::io::ErrorKind::{
        FileTooLarge, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => {
            tracing::error!(error.message = %error, "the spool folder is full");
            let text = "there is no room to take the file in; try again later";
            status::exhausted("SPOOL_FULL", text, ROOM)
        }
        ReadOnlyFilesystem | PermissionDenied | NotFound => {
            tracing::error!(error.message = %error, "the spool folder cannot be written to");
            let text = "files cannot be taken in now: the service's spool folder cannot be used";
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
            Error::NoSuchClaim(id) => status::not_found("claim", id),
            Error::ClaimKnown => status::already_exists("CLAIM_KNOWN", text),
            Error::OrderBilled => status::already_exists("ORDER_BILLED", text),
            Error::OrderWithdrawn => status::failed_precondition("ORDER_WITHDRAWN", text),
            Error::WrongState(_) => status::failed_precondition("WRONG_STATE", text),
            Error::Paid => status::failed_precondition("CLAIM_PAID", text),
            Error::FilingInProgress => {
                status::aborted("FILING_IN_PROGRESS", text, Duration::from_millis(200))
            }
            Error::InProgress => chassis::idempotency::in_progress(),
            Error::PostOffice(_) => status::unavailable("POST_OFFICE_UNAVAILABLE", text),
            Error::Idempotency(error) => error.into(),
            Error::Events(events::Error::Database(error)) | Error::Database(error) => {
                status::database(&error)
            }
            Error::Events(error) => status::internal(&error),
            Error::NoSuchParkedLine(id) => status::not_found("parked line", id),
            Error::NotFiled(_) => status::failed_precondition("CLAIM_NOT_FILED", text),
            Error::UnknownActivity(_) => status::failed_precondition("ACTIVITY_UNKNOWN", text),
            Error::Spool(error) => spool(&error),
            Error::Request(status) => *status,
        }
    }
}

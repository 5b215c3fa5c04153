//! gRPC statuses with details, and those of database errors.

use std::time::Duration;

use tonic::Status;
pub use weft_server::status::*;

use crate::postgres::{Fault, is_read_only};

/// The status of a database error that no domain rule maps, by its class ([`Fault`]).
pub fn database(error: &sqlx::Error) -> Status {
    match Fault::classify(error) {
        Fault::Outage => {
            tracing::warn!(error.message = chain(error), "the database cannot be used");
            let text = if is_read_only(error) {
                "the database is read-only now"
            } else {
                "the database cannot be used now"
            };
            unavailable("DATABASE_UNAVAILABLE", text)
        }
        Fault::Contention => {
            let text = "another request was quicker";
            aborted("LOST_RACE", text, Duration::from_millis(50))
        }
        Fault::Timeout => {
            tracing::warn!(error.message = chain(error), "a query took too long");
            unavailable("DATABASE_SLOW", "the database took too long")
        }
        Fault::StalePlan => {
            tracing::warn!(error.message = chain(error), "a prepared statement is stale");
            unavailable(PLAN_CHANGED, "the database's schema has changed; try again")
        }
        Fault::Refused => refused(error),
        Fault::Bug => internal(error),
    }
}

/// The reason of a call that used a stale statement: the server repeats the call once by itself.
pub(crate) const PLAN_CHANGED: &str = "DATABASE_PLAN_CHANGED";

/// Data that the contract allows and the database rejects. The database's message contains names of tables and the
/// caller's data, so it is only logged.
fn refused(error: &sqlx::Error) -> Status {
    tracing::error!(
        error.message = chain(error),
        "the database rejected the data of a request"
    );
    let found = error.as_database_error();
    let code = found
        .and_then(sqlx::error::DatabaseError::code)
        .unwrap_or_default();
    match &*code {
        // unique_violation
        "23505" => already_exists("ALREADY_EXISTS", "what the request would create already exists"),
        code if code.starts_with("22") || code.starts_with("54") => {
            invalid_field("", "the request has a value that cannot be stored")
        }
        _ => failed_precondition("CONSTRAINT_VIOLATED", "the request contradicts stored data"),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn a_pool_without_connections_is_unavailable_and_says_when_to_retry() {
        let status = database(&sqlx::Error::PoolTimedOut);
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_error_details().retry_info().is_some());
    }
}

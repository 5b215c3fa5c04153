use chassis::{idempotency, status::DOMAIN};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// Why an operator's request was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("there is no {kind} {id}")]
    NotFound { kind: &'static str, id: String },
    #[error("{field}: {problem}")]
    Invalid {
        field: &'static str,
        problem: &'static str,
    },
    #[error("the dead letter is {state}; only an open one can be {wanted}")]
    Closed { state: String, wanted: &'static str },
    #[error("the edit is {0}; only a proposed one can be approved")]
    EditClosed(String),
    #[error("the proposer of an edit cannot approve it: a second person must")]
    OwnEdit,
    #[error("body_json: {0}")]
    Body(String),
    #[error("this build runs no consumer {0}")]
    NoConsumer(String),
    #[error("the group has no open dead letter")]
    EmptyGroup,
    #[error("the request_id was used before with another request")]
    RequestIdReused,
    #[error("the same request is running")]
    Concurrent,
    #[error("{0}")]
    Broker(String),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<Error> for Status {
    fn from(failure: Error) -> Self {
        let text = failure.to_string();
        match failure {
            Error::NotFound { .. } => status(Code::NotFound, "NOT_FOUND", text),
            Error::Invalid { field, problem } => {
                let mut details = ErrorDetails::with_error_info("INVALID_ARGUMENT", DOMAIN, []);
                details.set_bad_request(vec![FieldViolation::new(field, problem)]);
                Self::with_error_details(Code::InvalidArgument, text, details)
            }
            Error::Closed { .. } => status(Code::FailedPrecondition, "DEAD_LETTER_NOT_OPEN", text),
            Error::EditClosed(_) => status(Code::FailedPrecondition, "EDIT_NOT_PROPOSED", text),
            Error::OwnEdit => status(Code::PermissionDenied, "SECOND_PERSON_NEEDED", text),
            Error::Body(problem) => {
                let mut details = ErrorDetails::with_error_info("BODY_MALFORMED", DOMAIN, []);
                details.set_bad_request(vec![FieldViolation::new("body_json", problem)]);
                Self::with_error_details(Code::InvalidArgument, text, details)
            }
            Error::NoConsumer(_) => status(Code::FailedPrecondition, "CONSUMER_UNKNOWN", text),
            Error::EmptyGroup => status(Code::FailedPrecondition, "GROUP_EMPTY", text),
            Error::RequestIdReused => idempotency::Error::KeyReused.into(),
            Error::Concurrent => idempotency::in_progress(),
            Error::Broker(error) => {
                tracing::warn!(error, "an operator's request failed at the broker");
                chassis::status::unavailable("BROKER_UNAVAILABLE", "the broker cannot be reached")
            }
            Error::Database(error) => chassis::status::database(&error),
        }
    }
}

fn status(code: Code, reason: &str, text: String) -> Status {
    Status::with_error_details(code, text, ErrorDetails::with_error_info(reason, DOMAIN, []))
}

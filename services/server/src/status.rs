//! gRPC statuses with details: ErrorInfo with a reason, and the details that belong to the code.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{Violation, Violations, contract::text::sanitized};

/// The domain of all reasons.
pub const DOMAIN: &str = "weft";

/// Bytes of violations in a status. A status is sent in HTTP/2 trailers, which gRPC libraries reject beyond 8 KiB,
/// and base64 adds a third.
const MAX_VIOLATION_BYTES: usize = 4 * 1024;
/// Tags and lengths of one violation.
const FIELD_OVERHEAD: usize = 8;
/// Bytes of violations in the status's message.
const MAX_TEXT_BYTES: usize = 1024;
/// Longest message of a status.
const MAX_TEXT_CHARS: usize = 2048;
/// Characters of a violation's description.
const MAX_DESCRIPTION_CHARS: usize = 500;
/// Characters of the name of something that was not found.
const MAX_ID_CHARS: usize = 200;

/// INVALID_ARGUMENT `INVALID_REQUEST`, with every field that breaks a rule: as many as fit into 4 KiB, whole
/// fields before their parts, and the number of further ones.
pub fn invalid(violations: &Violations) -> Status {
    let mut details = with_reason("INVALID_REQUEST");
    let listed = select(violations, MAX_VIOLATION_BYTES);
    details.set_bad_request(
        listed
            .iter()
            .map(|found| FieldViolation::new(&found.field, &found.description))
            .collect::<Vec<_>>(),
    );
    let text = summarize(violations);
    build(
        Code::InvalidArgument,
        format!("the request is invalid: {text}"),
        details,
    )
}

fn select(violations: &Violations, max_bytes: usize) -> Vec<Violation> {
    let mut ordered: Vec<Violation> = violations.iter().map(shorten).collect();
    ordered.sort_by_key(|violation| violation.field.matches(['.', '[']).count());
    let mut bytes = 0;
    let mut listed: Vec<Violation> = ordered
        .iter()
        .take_while(|violation| {
            bytes += violation.field.len() + violation.description.len() + FIELD_OVERHEAD;
            bytes <= max_bytes
        })
        .cloned()
        .collect();
    let omitted = ordered.len() - listed.len();
    if omitted > 0 {
        let description = format!("{omitted} more violations");
        listed.push(Violation {
            field: String::new(),
            description,
        });
    }
    listed
}

/// Truncates a long description, so that no violation is left out because of its length.
fn shorten(violation: &Violation) -> Violation {
    Violation {
        field: sanitized(&violation.field, MAX_DESCRIPTION_CHARS).into_owned(),
        description: sanitized(&violation.description, MAX_DESCRIPTION_CHARS).into_owned(),
    }
}

fn summarize(violations: &Violations) -> String {
    let listed = select(violations, MAX_TEXT_BYTES);
    let words = listed.iter().map(|violation| match violation.field.as_str() {
        "" => violation.description.clone(),
        field => format!("{field}: {}", violation.description),
    });
    words.collect::<Vec<_>>().join("; ")
}

/// INVALID_ARGUMENT for one field.
pub fn invalid_field(field: &str, description: impl Into<String>) -> Status {
    let mut violations = Violations::new();
    violations.add(field, description);
    invalid(&violations)
}

/// NOT_FOUND `<KIND>_NOT_FOUND`; also for what belongs to another tenant.
pub fn not_found(kind: &str, id: impl std::fmt::Display) -> Status {
    let reason = format!("{}_NOT_FOUND", kind.to_uppercase().replace([' ', '-'], "_"));
    let mut details = with_reason(&reason);
    let id = id.to_string();
    let id = sanitized(&id, MAX_ID_CHARS);
    details.set_resource_info(kind, &*id, "", "");
    build(Code::NotFound, format!("no such {kind}: {id}"), details)
}

/// FAILED_PRECONDITION: the state of the named resource does not allow the request.
pub fn failed_precondition(reason: &str, text: impl Into<String>) -> Status {
    build(Code::FailedPrecondition, text, with_reason(reason))
}

/// ABORTED: a concurrent request was faster, or is still running. The same request may be sent again after
/// `retry_after`.
pub fn aborted(reason: &str, text: impl Into<String>, retry_after: Duration) -> Status {
    build(Code::Aborted, text, with_retry(reason, retry_after))
}

/// ALREADY_EXISTS.
pub fn already_exists(reason: &str, text: impl Into<String>) -> Status {
    build(Code::AlreadyExists, text, with_reason(reason))
}

/// UNAVAILABLE: a dependency of the request is down. Retry after a second.
pub fn unavailable(reason: &str, text: impl Into<String>) -> Status {
    build(
        Code::Unavailable,
        text,
        with_retry(reason, Duration::from_secs(1)),
    )
}

/// RESOURCE_EXHAUSTED: a limit is reached, and nothing was started.
pub fn resource_exhausted(reason: &str, text: impl Into<String>, retry_after: Duration) -> Status {
    build(Code::ResourceExhausted, text, with_retry(reason, retry_after))
}

/// RESOURCE_EXHAUSTED: a message is too large. A retry would have the same size, so there is no retry delay.
pub fn too_large(reason: &str, text: impl Into<String>) -> Status {
    build(Code::ResourceExhausted, text, with_reason(reason))
}

/// DEADLINE_EXCEEDED `OUT_OF_TIME`.
pub fn deadline_exceeded() -> Status {
    let text = "the deadline passed before the call was done; it may still be executed";
    build(Code::DeadlineExceeded, text, with_reason("OUT_OF_TIME"))
}

/// DEADLINE_EXCEEDED `REQUEST_TOO_SLOW`: the request was not received in time, and nothing was started.
pub fn request_too_slow(text: impl Into<String>) -> Status {
    Status::with_error_details(Code::DeadlineExceeded, text, with_reason("REQUEST_TOO_SLOW"))
}

/// UNAVAILABLE `DRAINING`: the process is stopping.
pub fn draining() -> Status {
    unavailable("DRAINING", "the server is stopping; use another one")
}

/// UNAUTHENTICATED: there is no token, or it is invalid.
pub fn unauthenticated(reason: &str, text: impl Into<String>) -> Status {
    build(Code::Unauthenticated, text, with_reason(reason))
}

/// PERMISSION_DENIED.
pub fn permission_denied(reason: &str, text: impl Into<String>) -> Status {
    build(Code::PermissionDenied, text, with_reason(reason))
}

/// UNIMPLEMENTED.
pub fn unimplemented(reason: &str, text: impl Into<String>) -> Status {
    build(Code::Unimplemented, text, with_reason(reason))
}

/// A protocol violation, with the code of gRPC's specification.
pub(crate) fn protocol(code: Code, reason: &str, text: impl Into<String>) -> Status {
    build(code, text, with_reason(reason))
}

/// INTERNAL, without any content of `error`, which is logged here, once, with its causes.
pub fn internal(error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(error.message = chain(error), "internal error");
    build(
        Code::Internal,
        "internal error; see the service's log",
        with_reason("INTERNAL"),
    )
}

/// Every message is one line of bounded length: it is sent in a trailer, and callers log it.
fn build(code: Code, text: impl Into<String>, details: ErrorDetails) -> Status {
    let text = text.into();
    Status::with_error_details(code, sanitized(&text, MAX_TEXT_CHARS), details)
}

fn with_reason(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new())
}

fn with_retry(reason: &str, retry_after: Duration) -> ErrorDetails {
    let mut details = with_reason(reason);
    details.set_retry_info(Some(retry_after));
    details
}

/// An error and its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_carries_its_reason_and_domain() {
        let statuses = [
            (invalid_field("a", "must be set"), "INVALID_REQUEST"),
            (not_found("payment method", 1), "PAYMENT_METHOD_NOT_FOUND"),
            (failed_precondition("WRONG_STATE", "no"), "WRONG_STATE"),
            (aborted("LOST_RACE", "no", Duration::ZERO), "LOST_RACE"),
            (unavailable("DATABASE_UNAVAILABLE", "no"), "DATABASE_UNAVAILABLE"),
            (deadline_exceeded(), "OUT_OF_TIME"),
            (internal(&std::fmt::Error), "INTERNAL"),
        ];
        for (status, reason) in statuses {
            let info = status.get_error_details().error_info().cloned().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, DOMAIN));
        }
    }

    #[test]
    fn a_thousand_violations_fit_into_a_trailer_with_the_number_of_omitted_ones() {
        let mut violations = Violations::new();
        for line in 0..1_000 {
            violations.add(format!("lines[{line}].amount"), "must be set");
        }
        violations.add("lines", "must have at most 1,000 items");
        let status = invalid(&violations);
        assert!(status.details().len() + status.message().len() < 8 * 1024 * 3 / 4);
        let details = status.get_error_details();
        let listed = &details.bad_request().unwrap().field_violations;
        assert_eq!(listed[0].field, "lines");
        let omitted = format!("{} more violations", 1_001 - (listed.len() - 1));
        assert_eq!(listed.last().unwrap().description, omitted);
    }

    #[test]
    fn an_invalid_request_names_every_field() {
        let mut violations = Violations::new();
        violations.add("lines[0].price", "must be set");
        violations.add("patient_id", "must not be empty");
        let status = invalid(&violations);
        let details = status.get_error_details();
        let fields: Vec<_> = details
            .bad_request()
            .unwrap()
            .field_violations
            .iter()
            .map(|v| v.field.clone())
            .collect();
        assert_eq!(fields, ["patient_id", "lines[0].price"]);
    }

    #[test]
    fn echoed_text_is_truncated_and_never_dropped() {
        let long = "x".repeat(3_000_000);
        let status = not_found("service", format!("{long}\0"));
        assert!(status.details().len() + status.message().len() < 1024);
        assert!(status.message().contains("xxx") && status.message().ends_with('…'));
        let status = failed_precondition("WRONG_STATE", format!("a\n{long}"));
        assert!(status.message().starts_with("a\u{fffd}x") && status.message().len() < 3 * MAX_TEXT_CHARS);
        let mut violations = Violations::new();
        violations.add("a", &long);
        violations.add("b", "must be set");
        let details = invalid(&violations).get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        assert!(fields[0].description.ends_with('…'));
        assert_eq!(fields[1].field, "b");
    }

    #[test]
    fn an_internal_error_leaks_nothing() {
        let status = internal(&std::io::Error::other("password=hunter2"));
        assert!(!format!("{status:?}").contains("hunter2"));
    }

    #[test]
    fn an_outage_says_when_to_retry_and_a_message_that_is_too_large_does_not() {
        let outage = unavailable("DATABASE_UNAVAILABLE", "no");
        assert!(outage.get_error_details().retry_info().is_some());
        let never = too_large("MESSAGE_TOO_LARGE", "the message is too large");
        assert!(never.get_error_details().retry_info().is_none());
    }
}

//! Spans and metrics of calls and attempts.
//!
//! A call has a span and a duration that an application would see (after retries); each attempt below it has
//! its own (before retries), so that both the effective and the actual success are visible.

mod calls;
pub(crate) mod metrics;
mod repetitions;
mod running;
pub(crate) mod span;
mod traffic;

pub(crate) use calls::Calls;
pub(crate) use metrics::Metrics;
pub(crate) use repetitions::Repetitions;
pub(crate) use running::{Measured, Running};

use tonic::Code;

/// A code as metrics and service configs write it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

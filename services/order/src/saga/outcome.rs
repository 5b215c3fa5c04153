//! The outcome of a step.

use mesh::Origin;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::order::Failure;

/// The outcome of a step. A failed call is a [`Status`] instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(Effect),
    Wait(Wait),
    /// It will never succeed. `undo`: it may have had an effect that must be undone.
    Refused {
        failure: Failure,
        undo: bool,
    },
    /// A part of the step, or something else, was done manually: neither a retry nor an undo is correct.
    Stuck {
        reason: String,
    },
}

/// The effect of a successful step on the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    ClaimPrepared(Uuid),
    PaymentAuthorized(Uuid),
    /// The capture, which is the next step, has succeeded together with the authorization.
    PaymentCaptured(Uuid),
    /// With the reason when the post office rejected the submission.
    ClaimSubmitted {
        rejection: Option<String>,
    },
    /// The patient has paid the balance that was to be voided; this much of it, in minor units, is to be refunded.
    BalanceToRefund(i64),
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The patient has to provide a payment method.
    PaymentMethod(Uuid),
    /// The processor has not reported the outcome; the payment is queried again, never charged again.
    PaymentOutcome(Uuid),
}

impl Effect {
    /// The text in the step's history.
    pub fn describe(&self) -> String {
        match self {
            Effect::Nothing => String::new(),
            Effect::BalanceToRefund(_) => "the patient has paid the balance".to_owned(),
            Effect::ClaimPrepared(id) => format!("claim {id}"),
            Effect::PaymentAuthorized(id) | Effect::PaymentCaptured(id) => format!("payment {id}"),
            Effect::ClaimSubmitted { rejection: None } => String::new(),
            Effect::ClaimSubmitted {
                rejection: Some(reason),
            } => format!("rejected: {reason}"),
        }
    }
}

/// Whether a failed call may succeed if it is repeated. A token may have expired: the next try uses another one.
/// Only the callee's own errors are final, not those of a wrong route, of a database that lags behind the last
/// commit, or of the client: a method or payment that was not found may be found later, and an oversized response
/// may follow an effect.
pub(crate) fn is_transient(status: &Status) -> bool {
    if Origin::from_status(status) != Origin::Callee {
        return true;
    }
    match status.code() {
        Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition => false,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => true,
    }
}

/// Whether the callee has refused the call. The reason is found in the callee's records.
pub(crate) fn is_refusal(status: &Status) -> bool {
    let refused = matches!(status.code(), Code::FailedPrecondition | Code::AlreadyExists);
    refused && Origin::from_status(status) == Origin::Callee
}

/// Maps a failed call to the failure of an order.
pub(crate) fn to_failure(status: &Status) -> Failure {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    let violations = details.bad_request().map(|bad| {
        bad.field_violations
            .iter()
            .map(|found| (found.field.clone(), found.description.clone()))
            .collect()
    });
    Failure {
        reason: reason
            .filter(|reason| !reason.is_empty())
            .unwrap_or_else(|| mesh::code::name(status.code()).to_owned()),
        message: status.message().to_owned(),
        violations: violations.unwrap_or_default(),
    }
}

/// The violations of a refused claim, as fields of the order's request.
pub(crate) fn claim_violations(status: &Status) -> Vec<(String, String)> {
    let field = |field: String| match field.strip_prefix("details") {
        Some(rest) => format!("claim{rest}"),
        None if field.is_empty() => "claim".to_owned(),
        None => format!("claim.{field}"),
    };
    to_failure(status)
        .violations
        .into_iter()
        .map(|(found, description)| (field(found), description))
        .collect()
}

/// Describes the violations of a claim with the caller's field names, which differ from the callee's.
pub(crate) fn describe_violations(violations: &[(String, String)]) -> String {
    let faults = violations
        .iter()
        .map(|(field, description)| format!("{field}: {description}"));
    let line = format!("the claim is invalid: {}", faults.collect::<Vec<_>>().join("; "));
    line.chars().take(500).collect()
}

/// Describes a failed call in one line, for the history.
pub(crate) fn describe(status: &Status) -> String {
    let line = format!("{}: {}", mesh::code::name(status.code()), status.message());
    line.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason_and_violations() {
        let refused = chassis::status::invalid_field("details.net", "must be the sum");
        assert_eq!(to_failure(&refused).reason, "INVALID_REQUEST");
        assert_eq!(
            claim_violations(&refused),
            [("claim.net".to_owned(), "must be the sum".to_owned())]
        );
        // The caller has not sent the claims service's field names.
        assert_eq!(
            describe_violations(&claim_violations(&refused)),
            "the claim is invalid: claim.net: must be the sum"
        );
    }

    #[test]
    fn a_failure_without_a_reason_gets_the_code_as_its_reason() {
        assert_eq!(
            to_failure(&Status::deadline_exceeded("late")).reason,
            "DEADLINE_EXCEEDED"
        );
    }

    #[test]
    fn an_error_that_a_retry_cannot_change_is_not_transient() {
        let refused = Status::failed_precondition("");
        assert!(is_transient(&refused), "it was made on this side of the wire");
        assert!(!is_transient(&Origin::mark_callee(refused)));
        assert!(is_transient(&Status::unavailable("")) && is_transient(&Status::unauthenticated("")));
    }

    #[test]
    fn an_error_of_a_wrong_route_or_a_lagging_database_is_transient() {
        for code in [
            Code::Unimplemented,
            Code::NotFound,
            Code::DataLoss,
            Code::OutOfRange,
        ] {
            assert!(
                is_transient(&Origin::mark_callee(Status::new(code, ""))),
                "{code:?}"
            );
        }
    }
}

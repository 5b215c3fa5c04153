//! What a step came to.

use mesh::Origin;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::order::Failure;

/// What a step came to. A call that failed is a [`Status`] instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(Effect),
    Wait(Wait),
    /// It will never succeed. `undo` when something may be left over of it.
    Refused {
        failure: Failure,
        undo: bool,
    },
    /// Somebody has done a part of it, or something else, by hand: neither a repetition nor an undo is right.
    Stuck {
        reason: String,
    },
}

/// What a step that succeeded means for the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    ClaimPrepared(Uuid),
    PaymentAuthorized(Uuid),
    /// The capture, which is the next step, has succeeded with the authorization.
    PaymentCaptured(Uuid),
    /// With the reason when the post office refused the submission.
    ClaimSubmitted {
        rejection: Option<String>,
    },
    /// The patient has paid the balance that was to be let go; so much of it, in minor units, is to be given back.
    BalanceToRefund(i64),
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The patient is to give a payment method.
    PaymentMethod(Uuid),
    /// The processor has not answered; it is asked again, never charged again.
    PaymentOutcome(Uuid),
}

impl Effect {
    /// What the record of the step says.
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

/// Whether a call that failed so may succeed if it is made again. A token may have run out: the next try has another.
/// What a wrong route, a database behind the last commit, or the client itself answers is not the callee's verdict: a
/// method or a payment that is not there may be there again, and an answer that is too large may follow an effect.
pub(crate) fn is_transient(status: &Status) -> bool {
    if Origin::of(status) != Origin::Callee {
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

/// Whether the callee has answered that it will not do it. Why, what it keeps tells.
pub(crate) fn is_refusal(status: &Status) -> bool {
    let refused = matches!(status.code(), Code::FailedPrecondition | Code::AlreadyExists);
    refused && Origin::of(status) == Origin::Callee
}

/// A failed call as the reason why an order does not go on.
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
            .unwrap_or_else(|| code_name(status.code())),
        message: status.message().to_owned(),
        violations: violations.unwrap_or_default(),
    }
}

/// The violations that a refused claim names, as fields of the order that it came with.
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

/// What is wrong with a claim, field by field as the caller named them: the callee's own names are others.
pub(crate) fn describe_violations(violations: &[(String, String)]) -> String {
    let faults = violations
        .iter()
        .map(|(field, description)| format!("{field}: {description}"));
    let line = format!("the claim is invalid: {}", faults.collect::<Vec<_>>().join("; "));
    line.chars().take(500).collect()
}

/// A failed call in one line, for the record.
pub(crate) fn describe(status: &Status) -> String {
    let line = format!("{}: {}", code_name(status.code()), status.message());
    line.chars().take(500).collect()
}

fn code_name(code: Code) -> String {
    let name = format!("{code:?}");
    let mut upper = String::with_capacity(name.len() + 4);
    for (index, letter) in name.char_indices() {
        if index > 0 && letter.is_uppercase() {
            upper.push('_');
        }
        upper.extend(letter.to_uppercase());
    }
    upper
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason_and_its_violations() {
        let refused = chassis::status::invalid_field("details.net", "must be the sum");
        assert_eq!(to_failure(&refused).reason, "INVALID_REQUEST");
        assert_eq!(
            claim_violations(&refused),
            [("claim.net".to_owned(), "must be the sum".to_owned())]
        );
        // The claim's own names of its fields are nothing that the caller has sent.
        assert_eq!(
            describe_violations(&claim_violations(&refused)),
            "the claim is invalid: claim.net: must be the sum"
        );
    }

    #[test]
    fn a_failure_without_a_reason_is_named_by_its_code() {
        assert_eq!(
            to_failure(&Status::deadline_exceeded("late")).reason,
            "DEADLINE_EXCEEDED"
        );
    }

    #[test]
    fn what_a_retry_cannot_change_is_not_transient() {
        let refused = Status::failed_precondition("");
        assert!(is_transient(&refused), "it was made on this side of the wire");
        assert!(!is_transient(&Origin::answered(refused)));
        assert!(is_transient(&Status::unavailable("")) && is_transient(&Status::unauthenticated("")));
    }

    #[test]
    fn what_a_wrong_route_or_a_lost_row_answers_is_no_verdict() {
        for code in [
            Code::Unimplemented,
            Code::NotFound,
            Code::DataLoss,
            Code::OutOfRange,
        ] {
            assert!(is_transient(&Origin::answered(Status::new(code, ""))), "{code:?}");
        }
    }
}

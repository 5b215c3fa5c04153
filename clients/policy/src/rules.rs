//! The rules for policies from any source.

use tonic::Code;

use super::{Idempotency, MethodPolicy};

/// Every rule that a policy breaks.
pub(super) fn broken_rules(policy: &MethodPolicy) -> Vec<String> {
    let mut errors = Vec::new();
    let mut rule = |holds: bool, error: &str| {
        if !holds {
            errors.push(error.to_owned());
        }
    };
    rule(!policy.timeout.is_zero(), "timeout: must be more than zero");
    if let Some(retry) = &policy.retry {
        rule(
            (2..=5).contains(&retry.max_attempts),
            "retry.max_attempts: must be 2 to 5",
        );
        rule(
            !retry.initial_backoff.is_zero(),
            "retry.initial_backoff: must be more than zero",
        );
        rule(
            retry.max_backoff >= retry.initial_backoff,
            "retry.max_backoff: must not be less than initial_backoff",
        );
        rule(
            retry.backoff_multiplier > 0.0,
            "retry.backoff_multiplier: must be more than zero",
        );
        rule(
            !retry.retryable_codes.is_empty(),
            "retry.retryable_codes: must not be empty",
        );
        rule(
            !retry.retryable_codes.contains(&Code::Ok),
            "retry.retryable_codes: must not hold OK",
        );
        rule(
            retry.attempt_timeout.is_none_or(|timeout| !timeout.is_zero()),
            "retry.attempt_timeout: must be more than zero",
        );
        rule(
            policy.repeatable(),
            "retry: needs an idempotency_level or a request_id in the request",
        );
        rule(
            !policy.client_streaming,
            "retry: a client stream is not buffered and cannot be sent again",
        );
    }
    if let Some(hedging) = &policy.hedging {
        rule(
            (2..=5).contains(&hedging.max_attempts),
            "hedging.max_attempts: must be 2 to 5",
        );
        rule(!hedging.delay.is_zero(), "hedging.delay: must be more than zero");
        rule(
            policy.idempotency == Idempotency::NoSideEffects,
            "hedging: needs NO_SIDE_EFFECTS",
        );
        rule(
            !policy.client_streaming && !policy.server_streaming,
            "hedging: for unary methods only",
        );
    }
    errors
}

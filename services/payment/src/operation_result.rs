//! The result of a request, by the state of its last operation.

use crate::{
    error::Error,
    operation::{Kind, Operation, State},
    payment::{self, Purpose},
};

/// Whether a request is answered with the payment's current state while the outcome of `operation` is open. That
/// applies to an authorization and to a share's capture that follows it. The response is not stored, so that a
/// repeated request gets the outcome.
pub(crate) fn interim_result(operation: &Operation, purpose: Purpose) -> Result<(), Error> {
    match operation.kind {
        // No request waits for a release.
        Kind::Authorize | Kind::Release => Ok(()),
        Kind::Capture if !operation.is_awaited(purpose) => Ok(()),
        Kind::Capture | Kind::Void | Kind::Expire | Kind::Refund => Err(Error::ProcessorTimeout),
    }
}

/// Whether a request succeeds or fails whose last operation is `operation`.
pub(crate) fn final_result(operation: &Operation) -> Result<(), Error> {
    match (operation.state, operation.kind) {
        (State::Running | State::Unknown, Kind::Release) => Ok(()),
        (State::Running | State::Unknown, _) => Err(Error::InProgress),
        (State::Succeeded, _) | (State::Refused, Kind::Authorize | Kind::Release) => Ok(()),
        // A refused capture has declined the balance; the payment in the response shows it.
        (State::Refused, Kind::Capture) if operation.is_follow_up() => Ok(()),
        (State::Refused, kind) => Err(Error::ProcessorRefused {
            kind,
            reason: operation.refusal.clone(),
        }),
        (State::Abandoned, _) => Err(payment::Refusal::State(payment::State::Voided).into()),
    }
}

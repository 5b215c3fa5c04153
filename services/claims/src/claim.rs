//! The states of a claim and the steps between them. The payer's payments are not part of the state: see
//! [`balance`](crate::balance).

use std::{fmt, str::FromStr};

/// The state of a claim with the post office and the payer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Stored, but not checked against the rules.
    Draft,
    /// Breaks no rule and can be submitted.
    Validated,
    /// Received by the post office and not decided yet.
    Submitted,
    /// Accepted by the payer for adjudication.
    Accepted,
    /// Rejected by the post office or the payer.
    Rejected,
    /// To be submitted again; the post office has not received it yet.
    Resubmitted,
    /// Withdrawn.
    Withdrawn,
}

/// A step that a request takes with a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Submit it to the post office for the first time.
    Submit,
    /// Submit it again.
    Resubmit,
    /// Withdraw it.
    Withdraw,
}

/// The state does not allow the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a claim that is {state} cannot be {step}")]
pub struct WrongState {
    /// The claim's state.
    pub state: State,
    /// The requested step.
    pub step: Step,
}

impl State {
    const ALL: [State; 7] = [
        State::Draft,
        State::Validated,
        State::Submitted,
        State::Accepted,
        State::Rejected,
        State::Resubmitted,
        State::Withdrawn,
    ];

    /// The name in the database and in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Draft => "DRAFT",
            State::Validated => "VALIDATED",
            State::Submitted => "SUBMITTED",
            State::Accepted => "ACCEPTED",
            State::Rejected => "REJECTED",
            State::Resubmitted => "RESUBMITTED",
            State::Withdrawn => "WITHDRAWN",
        }
    }

    /// Checks that the state allows `step`.
    ///
    /// # Errors
    /// [`WrongState`] when it does not.
    pub fn allows(self, step: Step) -> Result<(), WrongState> {
        use State::{Accepted, Draft, Rejected, Resubmitted, Submitted, Validated, Withdrawn};
        let is_allowed = match (step, self) {
            (Step::Submit, Validated) => true,
            (Step::Submit, Draft | Submitted | Accepted | Rejected | Resubmitted | Withdrawn) => false,
            // A pending submission must be decided before it can be corrected.
            (Step::Resubmit, Accepted | Rejected) => true,
            (Step::Resubmit, Draft | Validated | Submitted | Resubmitted | Withdrawn) => false,
            (Step::Withdraw, Draft | Validated | Submitted | Accepted | Rejected | Resubmitted) => true,
            (Step::Withdraw, Withdrawn) => false,
        };
        if is_allowed {
            Ok(())
        } else {
            Err(WrongState { state: self, step })
        }
    }

    /// Whether the post office has not decided yet.
    pub fn is_undecided(self) -> bool {
        matches!(self, State::Submitted | State::Resubmitted)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The database contains a state that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state of a claim")]
pub struct UnknownState(String);

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<State, UnknownState> {
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or_else(|| UnknownState(name.to_owned()))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Submit => "submitted",
            Step::Resubmit => "resubmitted",
            Step::Withdraw => "withdrawn",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states_that_allow(step: Step) -> Vec<State> {
        State::ALL
            .into_iter()
            .filter(|state| state.allows(step).is_ok())
            .collect()
    }

    #[test]
    fn only_a_validated_claim_can_be_submitted() {
        assert_eq!(states_that_allow(Step::Submit), [State::Validated]);
    }

    #[test]
    fn only_a_decided_claim_can_be_resubmitted() {
        assert_eq!(
            states_that_allow(Step::Resubmit),
            [State::Accepted, State::Rejected]
        );
    }

    #[test]
    fn a_withdrawn_claim_cannot_be_withdrawn_again() {
        assert_eq!(
            State::Withdrawn.allows(Step::Withdraw).unwrap_err().to_string(),
            "a claim that is WITHDRAWN cannot be withdrawn"
        );
        assert_eq!(states_that_allow(Step::Withdraw).len(), State::ALL.len() - 1);
    }

    #[test]
    fn names_round_trip() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("PAID".parse::<State>().is_err());
    }
}

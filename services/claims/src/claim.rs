//! What a claim may go through. What the payer did about it is no state: see [`balance`](crate::balance).

use std::{fmt, str::FromStr};

/// Where a claim stands with the post office and the payer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Written down, its rules not checked yet.
    Draft,
    /// All rules hold; ready to be submitted.
    Validated,
    /// With the post office, which has not answered for the payer yet.
    Submitted,
    /// Taken by the payer for adjudication.
    Accepted,
    /// Refused by the post office or the payer.
    Rejected,
    /// Filed again and on its way to the post office.
    Resubmitted,
    /// Taken out of the process.
    Withdrawn,
}

/// What somebody wants done with a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hand it to the post office for the first time.
    Submit,
    /// File it again.
    Resubmit,
    /// Take it out of the process.
    Withdraw,
}

/// The step is not open in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a claim that is {state} cannot be {step}")]
pub struct WrongState {
    /// Where the claim stands.
    pub state: State,
    /// What was wanted.
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

    /// The name as the database and the contract spell it.
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

    /// Whether `step` is open.
    ///
    /// # Errors
    /// [`WrongState`] when it is not.
    pub fn allows(self, step: Step) -> Result<(), WrongState> {
        use State::{Accepted, Draft, Rejected, Resubmitted, Submitted, Validated, Withdrawn};
        let open = match (step, self) {
            (Step::Submit, Validated) => true,
            (Step::Submit, Draft | Submitted | Accepted | Rejected | Resubmitted | Withdrawn) => false,
            // A submission that is still on its way is answered before it is corrected.
            (Step::Resubmit, Accepted | Rejected) => true,
            (Step::Resubmit, Draft | Validated | Submitted | Resubmitted | Withdrawn) => false,
            (Step::Withdraw, Draft | Validated | Submitted | Accepted | Rejected | Resubmitted) => true,
            (Step::Withdraw, Withdrawn) => false,
        };
        if open {
            Ok(())
        } else {
            Err(WrongState { state: self, step })
        }
    }

    /// Whether the post office still owes an answer.
    pub fn awaits_answer(self) -> bool {
        matches!(self, State::Submitted | State::Resubmitted)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The database holds a state that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no state of a claim")]
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

    fn open(step: Step) -> Vec<State> {
        State::ALL
            .into_iter()
            .filter(|state| state.allows(step).is_ok())
            .collect()
    }

    #[test]
    fn only_a_validated_claim_is_submitted() {
        assert_eq!(open(Step::Submit), [State::Validated]);
    }

    #[test]
    fn only_an_answered_claim_is_resubmitted() {
        assert_eq!(open(Step::Resubmit), [State::Accepted, State::Rejected]);
    }

    #[test]
    fn a_withdrawn_claim_stays_withdrawn() {
        assert_eq!(
            State::Withdrawn.allows(Step::Withdraw).unwrap_err().to_string(),
            "a claim that is WITHDRAWN cannot be withdrawn"
        );
        assert_eq!(open(Step::Withdraw).len(), State::ALL.len() - 1);
    }

    #[test]
    fn names_round_trip() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("PAID".parse::<State>().is_err());
    }
}

//! The rules of eClaimLink. Each has a name in UPPER_SNAKE case; all broken rules are reported together.

mod activities;
mod amounts;
mod diagnoses;
mod emirates_id;
mod encounter;
mod remittance;
mod resubmission;

use proto::claims::v1::ClaimDetails;

pub use remittance::{claim_faults, line_faults};
pub use resubmission::{SubmittedClaim, check_resubmission};

/// The largest amount of a claim or a remittance in fils: a hundred billion dirham. Sums over any file therefore
/// fit into 64 bits.
pub(crate) const MAX_AMOUNT: i64 = 10_000_000_000_000;

/// A broken rule and the field that breaks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// The field's path, such as `activities[1].quantity`.
    pub field: String,
    /// A description of the fault.
    pub message: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, field: impl Into<String>, message: impl Into<String>) -> Violation {
        Violation {
            rule,
            field: field.into(),
            message: message.into(),
        }
    }

    /// The rule's name and the description.
    pub fn description(&self) -> String {
        format!("{}: {}", self.rule, self.message)
    }
}

/// Checks the rules that need only a claim's details. Field paths are relative to the details.
pub fn check_submission(details: &ClaimDetails) -> Vec<Violation> {
    let mut found = Vec::new();
    amounts::check(details, &mut found);
    emirates_id::check(details, &mut found);
    encounter::check(details, &mut found);
    diagnoses::check(details, &mut found);
    activities::check(details, &mut found);
    found
}

/// A time as seconds and nanoseconds, which compare as instants do; `None` if it is absent.
fn instant(time: Option<&prost_types::Timestamp>) -> Option<(i64, i32)> {
    time.map(|time| (time.seconds, time.nanos))
}

#[cfg(test)]
#[path = "rules/tests.rs"]
mod tests;

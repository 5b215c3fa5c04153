//! eClaimLink's rules. Each has a name in UPPER_SNAKE; all that are violated are told together.

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

/// The largest amount in fils that a claim or a remittance may name, a hundred billion dirham: sums over any file stay
/// within 64 bits.
pub(crate) const MAX_AMOUNT: i64 = 10_000_000_000_000;

/// A broken rule, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// The field's path: `activities[1].quantity`.
    pub field: String,
    /// What is wrong, in words.
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

    /// The rule's name, then the words.
    pub fn description(&self) -> String {
        format!("{}: {}", self.rule, self.message)
    }
}

/// Every rule that a claim's details break by themselves, whatever was filed before. Field paths are relative to the
/// details.
pub fn check_submission(details: &ClaimDetails) -> Vec<Violation> {
    let mut found = Vec::new();
    amounts::check(details, &mut found);
    emirates_id::check(details, &mut found);
    encounter::check(details, &mut found);
    diagnoses::check(details, &mut found);
    activities::check(details, &mut found);
    found
}

/// Whole seconds and nanoseconds compare as instants do; an absent time is no time.
fn instant(time: Option<&prost_types::Timestamp>) -> Option<(i64, i32)> {
    time.map(|time| (time.seconds, time.nanos))
}

#[cfg(test)]
#[path = "rules/tests.rs"]
mod tests;

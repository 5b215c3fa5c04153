//! Remittance.Advice files as eClaimLink 2.0 writes them: read claim by claim, so that memory depends on the largest
//! claim, not on the file.

mod claim;
mod file;

use time::OffsetDateTime;

pub use eclaimlink::{Disposition, Header};
pub use file::{File, Refused, Scanned, scan};

/// What a file says of one claim. Fields that could not be read are empty, and said in the faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its place in the file, from 0.
    pub ordinal: i32,
    /// The facility's number.
    pub id: String,
    /// The payer's number.
    pub id_payer: String,
    /// The provider's licence; the file's receiver when the claim names none.
    pub provider_id: String,
    /// The payer's payment reference; empty if nothing is paid or taken back.
    pub payment_reference: String,
    /// When it was settled; when the file was written if the claim does not say.
    pub settled_at: OffsetDateTime,
    /// Its activities.
    pub lines: Vec<Line>,
    /// Who sent the file.
    pub sender_id: String,
    /// What is wrong with all of it: none of its lines can be booked then.
    pub faults: Vec<Fault>,
    /// What was not read of it.
    pub remarks: Vec<Fault>,
}

/// What a file says of one activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The activity.
    pub activity_id: String,
    /// When it was done.
    pub start: Option<OffsetDateTime>,
    /// What was asked for, as the payer repeats it, in fils.
    pub net: Option<i64>,
    /// What is paid, in fils; negative for a takeback.
    pub payment: Option<i64>,
    /// Why less than the net is paid: the activity's own code, or else the claim's. Empty: none.
    pub denial_code: String,
    /// What is wrong with it: it cannot be booked then.
    pub faults: Vec<Fault>,
}

/// A broken rule of a claim or a line; where is known from where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule's name, UPPER_SNAKE.
    pub rule: &'static str,
    /// What is wrong, in words.
    pub message: String,
}

impl From<eclaimlink::Fault> for Fault {
    fn from(fault: eclaimlink::Fault) -> Fault {
        Fault::new(fault.rule, fault.text())
    }
}

impl Fault {
    pub(crate) fn new(rule: &'static str, message: impl Into<String>) -> Fault {
        Fault {
            rule,
            message: message.into(),
        }
    }
}

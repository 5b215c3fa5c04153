//! Remittance.Advice files of eClaimLink 2.0. They are read claim by claim, so that memory use depends on the
//! largest claim, not on the file.

mod claim;
mod file;

use time::OffsetDateTime;

pub use eclaimlink::{Disposition, Header};
pub use file::{File, FileSummary, RefusedFile, scan};

/// A claim of a remittance file. Fields that could not be read are empty and reported in the faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its index in the file, from 0.
    pub ordinal: i32,
    /// The facility's number of the claim.
    pub id: String,
    /// The payer's number of the claim.
    pub id_payer: String,
    /// The provider's licence; the file's receiver if the claim has none.
    pub provider_id: String,
    /// The payer's payment reference; may be empty if nothing is paid or taken back.
    pub payment_reference: String,
    /// The settlement date; the date of the file if the claim has none.
    pub settled_at: OffsetDateTime,
    /// Its activities.
    pub lines: Vec<Line>,
    /// The sender of the file.
    pub sender_id: String,
    /// Faults of the whole claim. None of its lines can be booked if there are any.
    pub faults: Vec<Fault>,
    /// Content of the claim that was not read.
    pub remarks: Vec<Fault>,
}

/// An activity of a claim in a remittance file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The activity.
    pub activity_id: String,
    /// When it was performed.
    pub start: Option<OffsetDateTime>,
    /// The claimed net as the payer reports it, in fils.
    pub net: Option<i64>,
    /// The payment in fils; negative for a takeback.
    pub payment: Option<i64>,
    /// Why less than the net is paid: the activity's denial code, else the claim's. Empty for none.
    pub denial_code: String,
    /// Faults of the line. It cannot be booked if there are any.
    pub faults: Vec<Fault>,
}

/// A broken rule of the claim or line that contains this fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule's name in UPPER_SNAKE case.
    pub rule: &'static str,
    /// A description of the fault.
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

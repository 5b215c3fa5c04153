//! What was paid, transferred, written off and refunded of an order, and the state of each activity of its claim.

use serde::{Deserialize, Serialize};

/// What became of the price after fulfilment, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Paid by the payer, less takebacks.
    pub payer_paid: i64,
    /// Transferred from the payer to the patient.
    pub transferred: i64,
    pub payer_written_off: i64,
    pub patient_written_off: i64,
    /// Paid by the patient of what was transferred.
    pub balance_paid: i64,
    /// The payer's part of what was returned.
    pub payer_returned: i64,
    /// The patient's part of what was returned.
    pub patient_returned: i64,
    /// Refunded to the patient.
    pub refunded: i64,
    /// The overpaid part of `refunded`.
    pub credit_refunded: i64,
    /// The difference of at most one minor unit between the claim and its activities; negative when the payer
    /// overpaid it.
    pub rounding: i64,
}

/// Why a fulfilled order is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Only the payer's answer is missing.
    None,
    /// The claim should be resubmitted.
    Resubmission,
    /// A person should review it.
    Review,
}

/// One activity of the claim, in minor units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    pub id: String,
    pub net: i64,
    pub paid: i64,
    pub taken_back: i64,
    /// From the payer's latest line; empty if it has none.
    #[serde(default)]
    pub denial_code: String,
    /// It was resubmitted, and the payer has not answered since.
    #[serde(default)]
    pub awaiting: bool,
    #[serde(default)]
    pub transferred: i64,
    #[serde(default)]
    pub written_off: i64,
}

/// The contents of a remittance for the whole claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remittance {
    /// The claim's version after it.
    pub claim_version: i64,
    /// Paid so far less taken back so far.
    pub net_paid: i64,
    /// Every activity of the claim.
    pub activities: Vec<Activity>,
    /// The activities that have a line in it.
    pub answered: Vec<String>,
}

impl Activity {
    /// What is neither paid nor transferred nor written off.
    pub fn open(&self) -> i64 {
        self.net - self.paid + self.taken_back - self.transferred - self.written_off
    }

    /// The payer has not answered (again) for it yet.
    pub fn is_pending(&self) -> bool {
        self.awaiting || (self.paid == 0 && self.taken_back == 0 && self.denial_code.is_empty())
    }

    /// The payer has answered and left something unpaid.
    pub fn is_refused(&self) -> bool {
        self.open() > 0 && !self.is_pending()
    }
}

impl Remittance {
    /// The new amounts, with the earlier decisions about each activity.
    pub(crate) fn merged_into(self, earlier: &[Activity]) -> Vec<Activity> {
        let Remittance {
            activities, answered, ..
        } = self;
        let merge = |mut fresh: Activity| {
            if let Some(before) = earlier.iter().find(|before| before.id == fresh.id) {
                fresh.transferred = before.transferred;
                fresh.written_off = before.written_off;
                fresh.awaiting = before.awaiting && !answered.contains(&fresh.id);
            }
            fresh
        };
        activities.into_iter().map(merge).collect()
    }
}

impl Hold {
    /// The name as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Hold::None => "",
            Hold::Resubmission => "resubmission",
            Hold::Review => "review",
        }
    }

    /// The hold with this name.
    pub fn from_name(name: &str) -> Option<Hold> {
        [Hold::None, Hold::Resubmission, Hold::Review]
            .into_iter()
            .find(|hold| hold.name() == name)
    }
}

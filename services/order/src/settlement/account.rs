//! What was paid, moved and given up of an order, and where each activity of its claim stands.

use serde::{Deserialize, Serialize};

/// What became of the price after fulfilment, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// PaymentTotals by the payer, takebacks deducted.
    pub payer_paid: i64,
    /// SagaUpdate from the payer to the patient.
    pub transferred: i64,
    pub payer_written_off: i64,
    pub patient_written_off: i64,
    /// PaymentTotals by the patient on what was moved.
    pub balance_paid: i64,
    /// The payer's part of what was returned.
    pub payer_returned: i64,
    /// The patient's part of what was returned.
    pub patient_returned: i64,
    /// Money given back to the patient.
    pub refunded: i64,
    /// Of it, what the patient had paid too much.
    pub credit_refunded: i64,
    /// The last hundredth between the claim and its activities; negative when the payer paid it too much.
    pub rounding: i64,
}

/// What keeps a fulfilled order from being settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing but the payer's answer.
    None,
    /// The claim should be resubmitted.
    Resubmission,
    /// A person should look.
    Review,
}

/// Where one activity of the claim stands, in minor units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    pub id: String,
    pub net: i64,
    pub paid: i64,
    pub taken_back: i64,
    /// Of the payer's latest line; empty if that has none.
    #[serde(default)]
    pub denial_code: String,
    /// It was filed again, and the payer has not answered since.
    #[serde(default)]
    pub awaiting: bool,
    #[serde(default)]
    pub transferred: i64,
    #[serde(default)]
    pub written_off: i64,
}

/// What a remittance said of the claim as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remittance {
    /// The claim's version after it.
    pub claim_version: i64,
    /// PaymentTotals so far less taken back so far.
    pub net_paid: i64,
    /// Every activity of the claim.
    pub activities: Vec<Activity>,
    /// The activities that have a line in it.
    pub answered: Vec<String>,
}

impl Activity {
    /// What is neither paid nor dealt with.
    pub fn open(&self) -> i64 {
        self.net - self.paid + self.taken_back - self.transferred - self.written_off
    }

    /// The payer has said nothing (new) of it yet.
    pub fn is_pending(&self) -> bool {
        self.awaiting || (self.paid == 0 && self.taken_back == 0 && self.denial_code.is_empty())
    }

    /// The payer has answered and left something unpaid.
    pub fn is_refused(&self) -> bool {
        self.open() > 0 && !self.is_pending()
    }
}

impl Remittance {
    /// The new facts with what was decided of each activity before.
    pub(super) fn merged_into(self, known: &[Activity]) -> Vec<Activity> {
        let Remittance {
            activities, answered, ..
        } = self;
        let merge = |mut fresh: Activity| {
            if let Some(before) = known.iter().find(|before| before.id == fresh.id) {
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
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Hold::None => "",
            Hold::Resubmission => "resubmission",
            Hold::Review => "review",
        }
    }

    /// The hold of that name.
    pub fn from_name(name: &str) -> Option<Hold> {
        [Hold::None, Hold::Resubmission, Hold::Review]
            .into_iter()
            .find(|hold| hold.name() == name)
    }
}

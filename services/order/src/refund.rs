//! Giving back a fulfilled order: some lines, an amount, or all that is left. Pure.

mod plan;

use chassis::Violations;
use money::Decimal;
pub use plan::plan;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::order::{Change, Order, State, WrongState};

/// A part, or all, of an order's price given back. Amounts are minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    pub id: Uuid,
    pub reference: String,
    pub reason: String,
    /// Taken from the payment of the share.
    pub share: i64,
    /// Taken from the payment of the balance.
    pub balance: i64,
    /// It returns the whole order and with it the claim.
    pub whole: bool,
    pub lines: Vec<Returned>,
    pub state: RefundState,
    pub created_at: OffsetDateTime,
}

/// A returned line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    pub number: i32,
    pub quantity: Decimal,
    pub amount: i64,
}

/// Where a refund stands. What is not FAILED counts against what can still be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundState {
    Pending,
    Done,
    Failed,
}

/// What the caller wants back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All that is left.
    Whole,
    /// An amount of the patient's money, in minor units.
    Amount(i64),
    /// These lines; a line without an amount is priced by its quantity.
    Lines(Vec<WantedLine>),
}

/// A line that the caller returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedLine {
    pub number: i32,
    pub quantity: Decimal,
    pub amount: Option<i64>,
}

/// Why nothing is given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The request contradicts itself or names what is not there.
    Invalid(Violations),
    /// The order does not allow it: the reason and the words.
    Precondition(&'static str, String),
}

impl Refund {
    /// The patient's money in it.
    pub fn amount(&self) -> i64 {
        self.share + self.balance
    }
}

impl Order {
    /// A refund went through.
    pub fn refunded(&mut self, refund: &Refund) -> Result<(), WrongState> {
        let outstanding = self.payer_outstanding();
        let balance = self.patient_balance();
        self.account.refunded += refund.amount();
        let bare = !self.is_insured() && self.account.refunded == self.price.patient_share;
        let full = refund.whole || bare;
        let payer_net = if refund.whole { outstanding } else { 0 };
        // A full return also cancels what the patient had not paid yet.
        let patient_share = refund.amount() + if refund.whole { balance } else { 0 };
        self.account.patient_returned += patient_share;
        self.account.payer_returned += payer_net;
        if full {
            self.enter(State::Returned)?;
            self.hold = crate::settlement::Hold::None;
        }
        self.record(Change::Returned {
            patient_share,
            payer_net,
            full,
        });
        Ok(())
    }
}

impl RefundState {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            RefundState::Pending => "pending",
            RefundState::Done => "done",
            RefundState::Failed => "failed",
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Option<RefundState> {
        [RefundState::Pending, RefundState::Done, RefundState::Failed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

#[cfg(test)]
#[path = "refund/tests.rs"]
mod tests;

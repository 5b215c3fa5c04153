//! Giving back a fulfilled order: some lines, an amount, or all that is left. Pure.

mod plan;

use chassis::Violations;
use money::Decimal;
pub use plan::{plan, unreserved_credit};
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
    /// Of the balance, what the patient had paid too much when the refund was planned. `None`: an earlier release has
    /// planned it.
    pub credit: Option<i64>,
    /// It returns the whole order and with it the claim.
    pub whole: bool,
    pub lines: Vec<ReturnedLine>,
    pub state: RefundState,
    pub created_at: OffsetDateTime,
}

/// A returned line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnedLine {
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
pub enum Scope {
    /// All that is left.
    Whole,
    /// An amount of the patient's money, in minor units.
    Amount(i64),
    /// These lines; a line without an amount is priced by its quantity.
    Lines(Vec<RequestedLine>),
}

/// A line that the caller returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedLine {
    pub number: i32,
    pub quantity: Decimal,
    pub amount: Option<i64>,
}

/// Why nothing is given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
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
    pub fn apply_refund(&mut self, refund: &Refund) -> Result<(), WrongState> {
        let outstanding = self.payer_outstanding();
        let owed = self.patient_balance();
        // What was paid too much is the patient's own: giving it back takes nothing off what was earned. What is billed
        // again by now is owed again.
        let credit = self.credit_in(refund);
        self.account.credit_refunded += credit;
        self.account.refunded += refund.amount();
        let balance = self.patient_balance();
        let bare = !self.is_insured() && self.account.refunded == self.price.patient_share;
        let full = refund.whole || bare;
        let payer_net = if refund.whole { outstanding } else { 0 };
        // A full return also cancels what the patient had not paid yet.
        let patient_share = refund.amount() - credit + if refund.whole { balance } else { 0 };
        self.account.patient_returned += patient_share;
        self.account.payer_returned += payer_net;
        if full {
            self.enter(State::Returned)?;
            self.hold = crate::settlement::Hold::None;
        }
        if patient_share == 0 && payer_net == 0 && !full {
            self.touch();
        } else {
            self.record(Change::Returned {
                patient_share,
                payer_net,
                full,
            });
        }
        if !full && balance > owed {
            self.reopen_balance()
        } else {
            Ok(())
        }
    }

    /// How much of a refund gives back what the patient had paid too much: what it was planned for, and what would be
    /// returned beyond all that is billed to the patient by now.
    fn credit_in(&self, refund: &Refund) -> i64 {
        let account = &self.account;
        let planned = refund.credit.unwrap_or_else(|| self.patient_credit());
        let billed = self.price.patient_share + account.transferred - account.patient_written_off;
        let returned = account.refunded - account.credit_refunded + refund.amount() - planned;
        (planned + (returned - billed).max(0)).min(refund.balance)
    }

    /// The payment service has given money back that no refund of the order accounts for. Before fulfilment nothing is
    /// earned that could be given up; see [`Order::return_earlier_refunds`].
    pub fn apply_external_refund(&mut self, refund: &Refund) -> Result<(), WrongState> {
        if self.state.is_fulfilled() {
            return self.apply_refund(refund);
        }
        self.account.refunded += refund.amount();
        match self.state {
            State::Returned => {
                self.account.patient_returned += refund.amount();
                self.record(Change::Returned {
                    patient_share: refund.amount(),
                    payer_net: 0,
                    full: true,
                });
            }
            _ => self.touch(),
        }
        Ok(())
    }

    /// What was given back before the order was fulfilled is returned as soon as it is earned.
    pub(crate) fn return_earlier_refunds(&mut self) {
        let patient_share = self.account.refunded - self.account.patient_returned;
        if patient_share > 0 {
            self.account.patient_returned += patient_share;
            self.record(Change::Returned {
                patient_share,
                payer_net: 0,
                full: false,
            });
        }
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
    pub fn from_name(name: &str) -> Option<RefundState> {
        [RefundState::Pending, RefundState::Done, RefundState::Failed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

#[cfg(test)]
#[path = "refund/tests.rs"]
mod tests;

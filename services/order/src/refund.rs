//! Refunds of a fulfilled order: some lines, an amount, or everything that is left. Pure.

mod plan;

use chassis::Violations;
use money::Decimal;
pub use plan::{plan, unreserved_credit};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::order::{Change, Order, State, WrongState};

/// A refund of a part or all of an order's price. Amounts are minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    pub id: Uuid,
    pub reference: String,
    pub reason: String,
    /// From the payment of the share.
    pub share: i64,
    /// From the payment of the balance.
    pub balance: i64,
    /// The part of `balance` that the patient had overpaid when the refund was planned. `None`: an earlier release
    /// has planned it.
    pub credit: Option<i64>,
    /// It returns the whole order and withdraws the claim.
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

/// The state of a refund. Every refund that is not FAILED reduces what can still be refunded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundState {
    Pending,
    Done,
    Failed,
}

/// What the caller wants to be refunded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that is left.
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

/// Why a refund is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The request contradicts itself or names a line that does not exist.
    Invalid(Violations),
    /// The order does not allow it: the reason and the message.
    Precondition(&'static str, String),
}

impl Refund {
    /// The patient's money in it.
    pub fn amount(&self) -> i64 {
        self.share + self.balance
    }
}

impl Order {
    /// Applies a refund that has succeeded.
    pub fn apply_refund(&mut self, refund: &Refund) -> Result<(), WrongState> {
        let outstanding = self.payer_outstanding();
        let owed = self.patient_balance();
        // A refunded overpayment reduces no revenue. If it has been billed again since it was planned, it is owed
        // again.
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
            self.hold = crate::order::Hold::None;
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

    /// The part of a refund that gives back an overpayment: the planned credit, and what would otherwise be
    /// returned beyond everything that is billed to the patient now.
    fn credit_in(&self, refund: &Refund) -> i64 {
        let account = &self.account;
        let planned = refund.credit.unwrap_or_else(|| self.patient_credit());
        let billed = self.price.patient_share + account.transferred - account.patient_written_off;
        let returned = account.refunded - account.credit_refunded + refund.amount() - planned;
        (planned + (returned - billed).max(0)).min(refund.balance)
    }

    /// Applies a refund that was made at the payment service and belongs to no refund of the order. Before
    /// fulfilment there is no revenue to reduce; see [`Order::return_earlier_refunds`].
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

    /// Returns what was refunded before fulfilment, as soon as the revenue is earned.
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
    /// The name as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            RefundState::Pending => "pending",
            RefundState::Done => "done",
            RefundState::Failed => "failed",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<RefundState> {
        [RefundState::Pending, RefundState::Done, RefundState::Failed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

#[cfg(test)]
#[path = "refund/tests.rs"]
mod tests;

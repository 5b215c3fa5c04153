//! Settlement after fulfilment: what the payer has paid or refused, and what happens to the rest. Pure; driven by
//! events.

mod evaluate;
mod policy;
mod resolution;
mod reversal;

pub use policy::{DenialPolicy, Disposition};
pub use resolution::Resolution;

use crate::order::{Adjustment, Change, Hold, Order, Remittance, State, WrongState};
use evaluate::{Decision, decide};

impl Order {
    /// What the payer still owes; negative when it has paid more than was open.
    pub fn payer_outstanding(&self) -> i64 {
        let account = &self.account;
        let closed =
            account.payer_paid + account.transferred + account.payer_written_off + account.payer_returned;
        self.price.payer_net - closed - account.rounding
    }

    /// Everything billed to the patient beside the share. A refunded overpayment counts as billed, so that this
    /// less the captured amount is what is due.
    pub fn billed(&self) -> i64 {
        let account = &self.account;
        account.transferred - account.patient_written_off + account.credit_refunded
    }

    /// What the patient still owes beside the share.
    pub fn patient_balance(&self) -> i64 {
        if self.state == State::Returned {
            return 0;
        }
        (self.billed() - self.account.balance_paid).max(0)
    }

    /// What the patient has overpaid of the amounts billed beside the share, because the payer has paid them
    /// later.
    pub fn patient_credit(&self) -> i64 {
        if self.state == State::Returned {
            return 0;
        }
        (self.account.balance_paid - self.billed()).max(0)
    }

    /// Applies a remittance. Before fulfilment it is only recorded, and evaluated later.
    pub fn apply_remittance(
        &mut self,
        remittance: Remittance,
        policy: &DenialPolicy,
    ) -> Result<(), WrongState> {
        if !self.advance_claim_version(remittance.claim_version) {
            return Ok(());
        }
        self.account.payer_paid = remittance.net_paid;
        self.activities = remittance.merged_into(&self.activities);
        self.touch();
        self.settle(policy)
    }

    /// Records that the post office or the payer rejected the submission: a person has to review it.
    pub fn apply_claim_rejection(&mut self, claim_version: i64) {
        if self.advance_claim_version(claim_version) && self.state != State::Settled {
            self.hold = Hold::Review;
            self.touch();
        }
    }

    /// Records that the claim was resubmitted: what is open waits for the payer's next remittance.
    pub fn apply_claim_resubmission(&mut self, claim_version: i64) {
        if self.advance_claim_version(claim_version) {
            self.hold = Hold::None;
            for activity in self.activities.iter_mut().filter(|activity| activity.open() > 0) {
                activity.awaiting = true;
            }
            self.touch();
        }
    }

    /// Records a payment of the balance or a part of it.
    pub fn apply_balance_payment(&mut self, amount: i64) -> Result<(), WrongState> {
        self.account.balance_paid += amount;
        self.touch();
        match self.state {
            State::BalanceDue => self.close(Adjustment::default()),
            _ => Ok(()),
        }
    }

    /// Applies the denial policy to what is open. Does nothing before fulfilment.
    pub fn settle(&mut self, policy: &DenialPolicy) -> Result<(), WrongState> {
        if !self.state.is_fulfilled() {
            return Ok(());
        }
        let payer = self.payer_id.clone();
        let mut adjustment = self.reverse_late_payments();
        match decide(self.payer_outstanding(), &self.activities, |code| {
            policy.disposition(&payer, code)
        }) {
            // Before the first remittance, only a rejection can hold the order.
            Decision::NoRemittance => {}
            Decision::Wait => self.hold = Hold::None,
            Decision::Hold(hold) => self.hold = hold,
            Decision::Close {
                transfers,
                write_offs,
                rounding,
            } => {
                self.hold = Hold::None;
                for (index, amount) in transfers {
                    self.activities[index].transferred += amount;
                    adjustment.transferred += amount;
                }
                for (index, amount) in write_offs {
                    self.activities[index].written_off += amount;
                    adjustment.written_off += amount;
                }
                adjustment.rounding = rounding;
            }
        }
        self.account.transferred += adjustment.transferred;
        self.account.payer_written_off += adjustment.written_off;
        self.account.rounding += adjustment.rounding;
        self.close(adjustment)
    }

    /// Requests a due balance again after its payment was voided or its authorization has expired.
    pub fn request_balance_again(&mut self) {
        if self.state == State::BalanceDue {
            self.record_balance_due(0, 0);
        }
    }

    /// The patient owes an overpayment again that was already refunded.
    pub(crate) fn reopen_balance(&mut self) -> Result<(), WrongState> {
        if self.state != State::BalanceDue {
            self.enter(State::BalanceDue)?;
        }
        self.record_balance_due(0, 0);
        Ok(())
    }

    /// Enters the state that follows from the open amounts, and records what was moved.
    fn close(&mut self, mut adjustment: Adjustment) -> Result<(), WrongState> {
        let outstanding = self.payer_outstanding();
        let next = if self.patient_balance() > 0 {
            State::BalanceDue
        } else if self.hold != Hold::None || outstanding > 0 {
            State::Fulfilled
        } else {
            State::Settled
        };
        let from = self.state;
        if next != from {
            self.enter(next)?;
        }
        // Amounts that the event of the new state does not carry are published before it.
        if !adjustment.fits_event_of(next) {
            let billed = self.billed();
            self.record(Change::Adjusted { adjustment, billed });
            adjustment = Adjustment::default();
        }
        if next == from && adjustment == Adjustment::default() {
            self.touch();
            return Ok(());
        }
        match next {
            State::BalanceDue => self.record_balance_due(adjustment.transferred, adjustment.written_off),
            State::Settled => self.record(Change::Settled {
                written_off: adjustment.written_off,
                patient_written_off: adjustment.patient_written_off,
            }),
            _ if from == State::Settled => self.record(Change::Reopened { outstanding }),
            _ => self.touch(),
        }
        Ok(())
    }

    fn record_balance_due(&mut self, transferred: i64, written_off: i64) {
        let (balance, billed) = (self.patient_balance(), self.billed());
        self.record(Change::BalanceDue {
            transferred,
            written_off,
            balance,
            billed,
        });
    }

    /// Claim events arrive in order; returns false for one that was applied already or is older than the last.
    fn advance_claim_version(&mut self, claim_version: i64) -> bool {
        if claim_version <= self.claim_version {
            return false;
        }
        self.claim_version = claim_version;
        true
    }
}

#[cfg(test)]
#[path = "settlement/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "settlement/late_tests.rs"]
mod late_tests;

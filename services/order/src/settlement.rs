//! After fulfilment: what the payer has paid or refused, and what becomes of the rest. Pure; driven by events.

mod account;
mod adjustment;
mod evaluate;
mod policy;
mod resolution;
mod reversal;

pub use account::{Account, Activity, Hold, Remittance};
pub use adjustment::Adjustment;
pub use policy::{DenialPolicy, Disposition};
pub use resolution::Resolution;

use crate::order::{Change, Order, State, WrongState};
use evaluate::{Decision, decide};

impl Order {
    /// What the payer still owes; negative when it has paid more than was left open.
    pub fn payer_outstanding(&self) -> i64 {
        let account = &self.account;
        let closed =
            account.payer_paid + account.transferred + account.payer_written_off + account.payer_returned;
        self.price.payer_net - closed - account.rounding
    }

    /// What was billed to the patient in all, beside the share. What the patient had paid too much and has back counts
    /// as billed, so that this less what was captured is what is due.
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

    /// What the patient has paid too much of what was billed beside the share: the payer has paid it after all.
    pub fn patient_credit(&self) -> i64 {
        if self.state == State::Returned {
            return 0;
        }
        (self.account.balance_paid - self.billed()).max(0)
    }

    /// A remittance told where the claim stands. Kept also before fulfilment, and evaluated then.
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

    /// The post office or the payer refused the submission: a person has to look.
    pub fn apply_claim_rejection(&mut self, claim_version: i64) {
        if self.advance_claim_version(claim_version) && self.state != State::Settled {
            self.hold = Hold::Review;
            self.touch();
        }
    }

    /// The claim was filed again: what is open waits for the payer's next answer.
    pub fn apply_claim_resubmission(&mut self, claim_version: i64) {
        if self.advance_claim_version(claim_version) {
            self.hold = Hold::None;
            for activity in self.activities.iter_mut().filter(|activity| activity.open() > 0) {
                activity.awaiting = true;
            }
            self.touch();
        }
    }

    /// The patient paid (a part of) the balance.
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

    /// The payment of the balance was let go or its authorization has lapsed. While it is due it is asked for again.
    pub fn request_balance_again(&mut self) {
        if self.state == State::BalanceDue {
            self.record_balance_due(0, 0);
        }
    }

    /// The patient has back what was paid too much, and owes it by now.
    pub(crate) fn reopen_balance(&mut self) -> Result<(), WrongState> {
        if self.state != State::BalanceDue {
            self.enter(State::BalanceDue)?;
        }
        self.record_balance_due(0, 0);
        Ok(())
    }

    /// Adjustment to the state that what is open calls for, and tells what was moved.
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
        // What the new state's own event has no room for is told before it.
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

    /// Claim events arrive in order; one that was seen already, or is older than what is known, is no news.
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

//! After fulfilment: what the payer has paid or refused, and what becomes of the rest. Pure; driven by events.

mod account;
mod evaluate;
mod policy;

pub use account::{Account, Activity, Hold, Remittance};
pub use policy::{DenialPolicy, Disposition};

use crate::order::{Change, Order, State, WrongState};
use evaluate::{Decision, decide};

impl Order {
    /// What the payer still owes; negative when it has paid more than was left open.
    pub fn payer_outstanding(&self) -> i64 {
        let account = &self.account;
        let closed =
            account.payer_paid + account.transferred + account.payer_written_off + account.payer_returned;
        self.price.payer_net - closed
    }

    /// What the patient still owes beside the share.
    pub fn patient_balance(&self) -> i64 {
        if self.state == State::Returned {
            return 0;
        }
        let account = &self.account;
        (account.transferred - account.patient_written_off - account.balance_paid).max(0)
    }

    /// A remittance told where the claim stands. Kept also before fulfilment, and evaluated then.
    pub fn remitted(&mut self, remittance: Remittance, policy: &DenialPolicy) -> Result<(), WrongState> {
        if !self.is_news(remittance.claim_version) {
            return Ok(());
        }
        self.account.payer_paid = remittance.net_paid;
        self.activities = remittance.merged_into(&self.activities);
        self.touch();
        self.settle(policy)
    }

    /// The post office or the payer refused the submission: a person has to look.
    pub fn claim_rejected(&mut self, claim_version: i64) {
        if self.is_news(claim_version) && self.state != State::Settled {
            self.hold = Hold::Review;
            self.touch();
        }
    }

    /// The claim was filed again: what is open waits for the payer's next answer.
    pub fn claim_resubmitted(&mut self, claim_version: i64) {
        if self.is_news(claim_version) {
            self.hold = Hold::None;
            for activity in self.activities.iter_mut().filter(|activity| activity.open() > 0) {
                activity.awaiting = true;
            }
            self.touch();
        }
    }

    /// The patient paid (a part of) the balance.
    pub fn balance_paid(&mut self, amount: i64) -> Result<(), WrongState> {
        self.account.balance_paid += amount;
        self.touch();
        match self.state {
            State::BalanceDue => self.close(Deltas::default()),
            _ => Ok(()),
        }
    }

    /// Applies the denial policy to what is open. Does nothing before fulfilment.
    pub fn settle(&mut self, policy: &DenialPolicy) -> Result<(), WrongState> {
        if !self.state.is_fulfilled() {
            return Ok(());
        }
        let payer = self.payer_id.clone();
        let mut deltas = Deltas::default();
        match decide(self.payer_outstanding(), &self.activities, |code| {
            policy.disposition(&payer, code)
        }) {
            // Before the first remittance, only a rejection can hold the order.
            Decision::Unheard => {}
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
                    deltas.transferred += amount;
                }
                for (index, amount) in write_offs {
                    self.activities[index].written_off += amount;
                    deltas.written_off += amount;
                }
                deltas.written_off += rounding;
            }
        }
        self.account.transferred += deltas.transferred;
        self.account.payer_written_off += deltas.written_off;
        self.close(deltas)
    }

    /// Bills the patient for what the payer refused; `None` when nothing was.
    pub fn bill_patient(&mut self) -> Result<Option<i64>, WrongState> {
        let outstanding = self.payer_outstanding();
        let refused = match self.activities.is_empty() {
            // Without a remittance only a rejected submission leaves something refused: all of it.
            true if self.hold == Hold::Review => outstanding,
            true => 0,
            false => self
                .activities
                .iter()
                .filter(|activity| activity.is_refused())
                .map(Activity::open)
                .sum(),
        };
        let refused = refused.min(outstanding);
        if !self.state.is_fulfilled() || refused <= 0 {
            return Ok(None);
        }
        for activity in self
            .activities
            .iter_mut()
            .filter(|activity| activity.is_refused())
        {
            activity.transferred += activity.open();
        }
        self.hold = Hold::None;
        self.account.transferred += refused;
        self.close(Deltas {
            transferred: refused,
            ..Deltas::default()
        })?;
        Ok(Some(refused))
    }

    /// Writes off all that is open, the patient's balance included; `None` when nothing is.
    pub fn write_off(&mut self) -> Result<Option<i64>, WrongState> {
        let (payers, patients) = (self.payer_outstanding().max(0), self.patient_balance());
        if !self.state.is_fulfilled() || payers + patients == 0 {
            return Ok(None);
        }
        for activity in self.activities.iter_mut().filter(|activity| activity.open() > 0) {
            activity.written_off += activity.open();
        }
        self.hold = Hold::None;
        self.account.payer_written_off += payers;
        self.account.patient_written_off += patients;
        self.close(Deltas {
            transferred: 0,
            written_off: payers,
            patient_written_off: patients,
        })?;
        Ok(Some(payers + patients))
    }

    /// Moves to the state that what is open calls for, and tells what was moved.
    fn close(&mut self, deltas: Deltas) -> Result<(), WrongState> {
        let balance = self.patient_balance();
        let outstanding = self.payer_outstanding();
        let next = match balance > 0 {
            true => State::BalanceDue,
            false if self.hold != Hold::None || outstanding > 0 => State::Fulfilled,
            false => State::Settled,
        };
        let moved = deltas != Deltas::default();
        let from = self.state;
        if next != from {
            self.enter(next)?;
        } else if !moved {
            self.touch();
            return Ok(());
        }
        let Deltas {
            transferred,
            written_off,
            patient_written_off,
        } = deltas;
        match next {
            State::BalanceDue => self.record(Change::BalanceDue {
                transferred,
                written_off,
                balance,
            }),
            State::Settled => self.record(Change::Settled {
                written_off,
                patient_written_off,
            }),
            _ if from == State::Settled => self.record(Change::Reopened { outstanding }),
            _ => self.touch(),
        }
        Ok(())
    }

    /// Claim events arrive in order; one that was seen already, or is older than what is known, is no news.
    fn is_news(&mut self, claim_version: i64) -> bool {
        if claim_version <= self.claim_version {
            return false;
        }
        self.claim_version = claim_version;
        true
    }
}

/// What a settlement moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Deltas {
    transferred: i64,
    written_off: i64,
    patient_written_off: i64,
}

#[cfg(test)]
#[path = "settlement/tests.rs"]
mod tests;

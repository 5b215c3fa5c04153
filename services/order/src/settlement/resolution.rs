//! A person's resolution of open amounts.

use crate::order::{Activity, Adjustment, Hold, Order, WrongState};

/// What happens to an open amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// What the payer refused is billed to the patient.
    BillPatient,
    /// It is written off: the payer's part, then the patient's balance.
    WriteOff,
}

impl Resolution {
    /// The name as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Resolution::BillPatient => "bill_patient",
            Resolution::WriteOff => "write_off",
        }
    }
}

impl Order {
    /// The amount that can be resolved this way, in minor units.
    pub fn resolvable(&self, resolution: Resolution) -> i64 {
        if !self.state.is_fulfilled() {
            return 0;
        }
        match resolution {
            Resolution::BillPatient => self.refused_by_payer(),
            Resolution::WriteOff => self.payer_outstanding().max(0) + self.patient_balance(),
        }
    }

    /// Whether a write-off of this amount includes a part of the patient's balance.
    pub fn write_off_takes_balance(&self, amount: i64) -> bool {
        self.patient_balance() > 0 && amount > self.payer_outstanding().max(0)
    }

    /// Resolves `amount`, at most what is resolvable.
    pub fn resolve(&mut self, resolution: Resolution, amount: i64) -> Result<(), WrongState> {
        let amount = amount.min(self.resolvable(resolution));
        let adjustment = match resolution {
            Resolution::BillPatient => self.bill(amount),
            Resolution::WriteOff => self.write_off(amount),
        };
        if self.payer_outstanding() <= 0 {
            self.hold = Hold::None;
        }
        self.close(adjustment)
    }

    /// What the payer has answered for and left unpaid.
    fn refused_by_payer(&self) -> i64 {
        let outstanding = self.payer_outstanding();
        let refused = if !self.activities.is_empty() {
            self.activities
                .iter()
                .filter(|activity| activity.is_refused())
                .map(Activity::open)
                .sum()
        } else if self.hold == Hold::Review {
            // Without a remittance only a rejected submission is refused, and then all of it.
            outstanding
        } else {
            0
        };
        refused.min(outstanding).max(0)
    }

    fn bill(&mut self, amount: i64) -> Adjustment {
        spread(
            &mut self.activities,
            Activity::is_refused,
            amount,
            |activity, part| {
                activity.transferred += part;
            },
        );
        self.account.transferred += amount;
        Adjustment {
            transferred: amount,
            ..Adjustment::default()
        }
    }

    fn write_off(&mut self, amount: i64) -> Adjustment {
        let payers = amount.min(self.payer_outstanding().max(0));
        let patients = amount - payers;
        spread(
            &mut self.activities,
            |activity| activity.open() > 0,
            payers,
            |activity, part| {
                activity.written_off += part;
            },
        );
        self.account.payer_written_off += payers;
        self.account.patient_written_off += patients;
        Adjustment {
            written_off: payers,
            patient_written_off: patients,
            ..Adjustment::default()
        }
    }
}

/// Spreads an amount over the open amounts of the activities that count, in their order.
fn spread(
    activities: &mut [Activity],
    counts: impl Fn(&Activity) -> bool,
    mut amount: i64,
    take: impl Fn(&mut Activity, i64),
) {
    for activity in activities.iter_mut().filter(|activity| counts(activity)) {
        let part = activity.open().min(amount);
        take(activity, part);
        amount -= part;
    }
}

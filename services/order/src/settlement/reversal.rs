//! Reversals: the payer pays what was billed to the patient or written off before.

use super::evaluate::ROUNDING;
use crate::order::{Adjustment, Order};

impl Order {
    /// Reverses what was transferred or written off and is paid now, activity by activity. The patient's debt is
    /// reduced first; what the patient has paid of it becomes a credit.
    pub(super) fn reverse_late_payments(&mut self) -> Adjustment {
        let mut adjustment = Adjustment::default();
        for activity in &mut self.activities {
            let late = (-activity.open()).max(0);
            let transferred = late.min(activity.transferred);
            let written_off = (late - transferred).min(activity.written_off);
            activity.transferred -= transferred;
            activity.written_off -= written_off;
            adjustment.transfer_reversed += transferred;
            adjustment.write_off_reversed += written_off;
        }
        self.account.transferred -= adjustment.transfer_reversed;
        self.account.payer_written_off -= adjustment.write_off_reversed;
        self.reverse_beyond_activities(&mut adjustment);
        if adjustment.transfer_reversed > 0 {
            self.reverse_patient_write_off(&mut adjustment);
        }
        adjustment
    }

    /// Reverses what was transferred or written off of the claim as a whole, before any remittance named an
    /// activity.
    fn reverse_beyond_activities(&mut self, adjustment: &mut Adjustment) {
        let late = -self.payer_outstanding();
        if late <= ROUNDING {
            return;
        }
        let beyond = |all: i64, of_activities: i64| (all - of_activities).max(0);
        let transferred: i64 = self.activities.iter().map(|activity| activity.transferred).sum();
        let written_off: i64 = self.activities.iter().map(|activity| activity.written_off).sum();
        let transferred = late.min(beyond(self.account.transferred, transferred));
        let written_off = (late - transferred).min(beyond(self.account.payer_written_off, written_off));
        self.account.transferred -= transferred;
        self.account.payer_written_off -= written_off;
        adjustment.transfer_reversed += transferred;
        adjustment.write_off_reversed += written_off;
    }

    /// Reverses the patient's write-off as far as it exceeds what is still transferred and unpaid.
    fn reverse_patient_write_off(&mut self, adjustment: &mut Adjustment) {
        let account = &mut self.account;
        let paid = account.balance_paid - account.credit_refunded;
        let unpaid = (account.transferred - paid).max(0);
        adjustment.patient_write_off_reversed = (account.patient_written_off - unpaid).max(0);
        account.patient_written_off -= adjustment.patient_write_off_reversed;
    }
}

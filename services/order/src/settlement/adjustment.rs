//! The amounts that a settlement adjustment.

use crate::order::State;

/// What a settlement adjustment, in minor units. None is negative but `rounding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// From the payer to the patient.
    pub transferred: i64,
    /// Of the payer's part.
    pub written_off: i64,
    /// Of the patient's balance.
    pub patient_written_off: i64,
    /// Back from the patient to the payer, who has paid it.
    pub transfer_reversed: i64,
    /// Of the payer's part, which was paid after all.
    pub write_off_reversed: i64,
    /// Of the patient's balance, which the payer has paid.
    pub patient_write_off_reversed: i64,
    /// Left open by the payer when positive, paid too much when negative.
    pub rounding: i64,
}

impl Adjustment {
    /// Whether the event of an order that has come to `state` tells all of them.
    pub(super) fn fits_event_of(&self, state: State) -> bool {
        let told = match state {
            State::BalanceDue => Adjustment {
                transferred: self.transferred,
                written_off: self.written_off,
                ..Adjustment::default()
            },
            State::Settled => Adjustment {
                written_off: self.written_off,
                patient_written_off: self.patient_written_off,
                ..Adjustment::default()
            },
            _ => Adjustment::default(),
        };
        *self == told
    }
}

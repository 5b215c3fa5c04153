//! The amounts that a settlement moves.

use super::State;

/// The amounts that a settlement moves, in minor units. Only `rounding` can be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// From the payer to the patient.
    pub transferred: i64,
    /// From the payer's part.
    pub written_off: i64,
    /// From the patient's balance.
    pub patient_written_off: i64,
    /// Back from the patient to the payer, who has paid it.
    pub transfer_reversed: i64,
    /// From the payer's part, which was paid later.
    pub write_off_reversed: i64,
    /// From the patient's balance, which the payer has paid.
    pub patient_write_off_reversed: i64,
    /// Left open by the payer when positive, overpaid when negative.
    pub rounding: i64,
}

impl Adjustment {
    /// Whether the event of entering `state` carries all amounts.
    pub(crate) fn fits_event_of(&self, state: State) -> bool {
        let carried = match state {
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
        *self == carried
    }
}

//! Decides what to do about the amounts that the payer left open.

use super::Disposition;
use crate::order::{Activity, Hold};

/// The largest difference between a claim's net and the sum of its activities, in minor units.
pub(super) const ROUNDING: i64 = 1;

/// What to do about the open amounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is no remittance yet.
    NoRemittance,
    /// The payer has not answered for everything yet.
    Wait,
    /// A person or a resubmission has to act first.
    Hold(Hold),
    /// Everything open can be closed: amounts by the activity's index, and the rounding difference, which is
    /// negative when the payer has overpaid.
    Close {
        transfers: Vec<(usize, i64)>,
        write_offs: Vec<(usize, i64)>,
        rounding: i64,
    },
}

/// Decides about the open activities. One that needs a resubmission keeps all of them waiting, because the whole
/// claim is resubmitted.
pub(super) fn decide(
    outstanding: i64,
    activities: &[Activity],
    disposition: impl Fn(&str) -> Disposition,
) -> Decision {
    let open: Vec<(usize, &Activity)> = activities
        .iter()
        .enumerate()
        .filter(|(_, activity)| activity.open() > 0)
        .collect();
    let nothing_left = open.is_empty() && !activities.is_empty() && outstanding.abs() <= ROUNDING;
    if outstanding == 0 || nothing_left {
        return Decision::Close {
            transfers: Vec::new(),
            write_offs: Vec::new(),
            rounding: outstanding,
        };
    }
    if activities.is_empty() {
        return Decision::NoRemittance;
    }
    let refused = || open.iter().filter(|(_, activity)| activity.is_refused());
    let wanted =
        |wanted: Disposition| refused().any(|(_, activity)| disposition(&activity.denial_code) == wanted);
    let rounding = outstanding - open.iter().map(|(_, activity)| activity.open()).sum::<i64>();
    if wanted(Disposition::Resubmit) {
        return Decision::Hold(Hold::Resubmission);
    }
    if wanted(Disposition::Review) || rounding.abs() > ROUNDING {
        return Decision::Hold(Hold::Review);
    }
    if open.iter().any(|(_, activity)| activity.is_pending()) {
        return Decision::Wait;
    }
    let amounts = |wanted: Disposition| {
        let matching = refused().filter(|(_, activity)| disposition(&activity.denial_code) == wanted);
        matching
            .map(|(index, activity)| (*index, activity.open()))
            .collect()
    };
    Decision::Close {
        transfers: amounts(Disposition::Patient),
        write_offs: amounts(Disposition::WriteOff),
        rounding,
    }
}

//! INPATIENT_WITHOUT_END, TRANSFER_WITHOUT_SOURCE, TRANSFER_WITHOUT_DESTINATION, ENCOUNTER_ENDS_BEFORE_START.

use proto::claims::v1::{ClaimDetails, Encounter};

use super::{Violation, instant};

/// Encounter.Type of inpatients, without and with emergency room.
const INPATIENT: [i32; 2] = [3, 4];
/// Encounter.StartType of a transfer.
const ARRIVES_BY_TRANSFER: i32 = 3;
/// Encounter.EndType of a transfer to acute and to non-acute care.
const LEAVES_BY_TRANSFER: [i32; 2] = [4, 7];

pub(super) fn check(details: &ClaimDetails, found: &mut Vec<Violation>) {
    let Some(encounter) = &details.encounter else {
        return;
    };
    inpatient(encounter, found);
    transfer(encounter, found);
    if let (Some(start), Some(end)) = (
        instant(encounter.start_time.as_ref()),
        instant(encounter.end_time.as_ref()),
    ) && end < start
    {
        let message = "the encounter ends before it starts";
        found.push(Violation::new(
            "ENCOUNTER_ENDS_BEFORE_START",
            "encounter.end_time",
            message,
        ));
    }
}

fn inpatient(encounter: &Encounter, found: &mut Vec<Violation>) {
    if !INPATIENT.contains(&encounter.r#type) {
        return;
    }
    for (missing, field) in [
        (encounter.end_time.is_none(), "encounter.end_time"),
        (encounter.end_type == 0, "encounter.end_type"),
    ] {
        if missing {
            let message = "is missing: an inpatient encounter needs an end and an end type";
            found.push(Violation::new("INPATIENT_WITHOUT_END", field, message));
        }
    }
}

fn transfer(encounter: &Encounter, found: &mut Vec<Violation>) {
    if encounter.start_type == ARRIVES_BY_TRANSFER && encounter.transfer_source.trim().is_empty() {
        let message = "is missing: the encounter starts with a transfer";
        found.push(Violation::new(
            "TRANSFER_WITHOUT_SOURCE",
            "encounter.transfer_source",
            message,
        ));
    }
    if LEAVES_BY_TRANSFER.contains(&encounter.end_type) && encounter.transfer_destination.trim().is_empty() {
        let message = "is missing: the encounter ends with a transfer";
        found.push(Violation::new(
            "TRANSFER_WITHOUT_DESTINATION",
            "encounter.transfer_destination",
            message,
        ));
    }
}

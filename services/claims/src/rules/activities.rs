//! DUPLICATE_ACTIVITY_ID, QUANTITY_NOT_POSITIVE, ACTIVITY_OUTSIDE_ENCOUNTER.

use std::collections::HashSet;

use money::Decimal;
use proto::claims::v1::{Activity, ClaimDetails, Encounter};

use super::{Violation, instant};

pub(super) fn check(details: &ClaimDetails, found: &mut Vec<Violation>) {
    let mut seen = HashSet::new();
    for (index, activity) in details.activities.iter().enumerate() {
        if !seen.insert(activity.id.as_str()) {
            let field = format!("activities[{index}].id");
            let message = format!("{} is duplicated", activity.id);
            found.push(Violation::new("DUPLICATE_ACTIVITY_ID", field, message));
        }
        quantity(index, activity, found);
        if let Some(encounter) = &details.encounter {
            within(encounter, index, activity, found);
        }
    }
}

fn quantity(index: usize, activity: &Activity, found: &mut Vec<Violation>) {
    let positive = match activity.quantity.as_ref().map(Decimal::try_from) {
        Some(Ok(quantity)) => quantity.is_positive(),
        Some(Err(_)) | None => false,
    };
    if !positive {
        let given = activity
            .quantity
            .as_ref()
            .map(|quantity| quantity.value.as_str())
            .unwrap_or_default();
        let field = format!("activities[{index}].quantity");
        let message = format!("must be a number above zero, is {given:?}");
        found.push(Violation::new("QUANTITY_NOT_POSITIVE", field, message));
    }
}

fn within(encounter: &Encounter, index: usize, activity: &Activity, found: &mut Vec<Violation>) {
    let Some(at) = instant(activity.start_time.as_ref()) else {
        return;
    };
    let early = instant(encounter.start_time.as_ref()).is_some_and(|start| at < start);
    let late = instant(encounter.end_time.as_ref()).is_some_and(|end| at > end);
    if early || late {
        let field = format!("activities[{index}].start_time");
        let message = if early {
            "is before the encounter"
        } else {
            "is after the encounter"
        };
        found.push(Violation::new("ACTIVITY_OUTSIDE_ENCOUNTER", field, message));
    }
}

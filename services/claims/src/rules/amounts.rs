//! GROSS_BELOW_PARTS, NET_NOT_SUM_OF_ACTIVITIES, and the validity of amounts: AMOUNT_INVALID, CURRENCY_NOT_AED.

use money::{Currency, Money};
use proto::{claims::v1::ClaimDetails, google::r#type::Money as Wire};

use super::{MAX_AMOUNT, Violation};

/// The allowed difference between the net and the sum of its activities in fils, for rounding.
const TOLERANCE: u64 = 1;

pub(super) fn check(details: &ClaimDetails, found: &mut Vec<Violation>) {
    let gross = amount("gross", details.gross.as_ref(), found);
    let share = amount("patient_share", details.patient_share.as_ref(), found);
    let net = amount("net", details.net.as_ref(), found);
    let activities: Vec<Option<i64>> = details
        .activities
        .iter()
        .enumerate()
        .map(|(index, activity)| amount(&format!("activities[{index}].net"), activity.net.as_ref(), found))
        .collect();

    if let (Some(gross), Some(share), Some(net)) = (gross, share, net)
        && gross < net + share
    {
        let message = format!(
            "gross {} is below net {} + patient share {}",
            aed(gross),
            aed(net),
            aed(share)
        );
        found.push(Violation::new("GROSS_BELOW_PARTS", "gross", message));
    }
    if let (Some(net), Some(activities)) = (net, activities.into_iter().collect::<Option<Vec<i64>>>()) {
        let sum: i64 = activities.iter().sum();
        if net.abs_diff(sum) > TOLERANCE {
            let message = format!(
                "net {} is not the sum of the activities' net {}",
                aed(net),
                aed(sum)
            );
            found.push(Violation::new("NET_NOT_SUM_OF_ACTIVITIES", "net", message));
        }
    }
}

/// The amount in fils. Adds a violation and returns `None` if it is invalid.
fn amount(field: &str, wire: Option<&Wire>, found: &mut Vec<Violation>) -> Option<i64> {
    let fault = match wire.map(Money::try_from) {
        None => Violation::new("AMOUNT_INVALID", field, "is missing"),
        Some(Err(error)) => Violation::new("AMOUNT_INVALID", field, error.to_string()),
        Some(Ok(money)) if money.currency() != Currency::AED => Violation::new(
            "CURRENCY_NOT_AED",
            field,
            format!("eClaimLink accepts AED, not {}", money.currency()),
        ),
        Some(Ok(money)) if money.is_negative() => Violation::new("AMOUNT_INVALID", field, "is negative"),
        Some(Ok(money)) if money.minor() > MAX_AMOUNT => {
            Violation::new("AMOUNT_INVALID", field, format!("is above {}", aed(MAX_AMOUNT)))
        }
        Some(Ok(money)) => return Some(money.minor()),
    };
    found.push(fault);
    None
}

fn aed(minor: i64) -> Money {
    Money::new(minor, Currency::AED)
}

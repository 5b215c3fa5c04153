//! The rules of resubmissions: NO_EARLIER_REMITTANCE, ACTIVITY_IDS_CHANGED, NET_CHANGED, CLAIM_NUMBER_CHANGED.

use std::collections::HashMap;

use proto::{
    claims::v1::{ClaimDetails, Resubmission, ResubmissionType},
    google::r#type::Money,
};

use super::Violation;

/// The claim that is resubmitted.
#[derive(Clone, Copy, Debug)]
pub struct SubmittedClaim<'a> {
    /// Its content as last submitted.
    pub details: &'a ClaimDetails,
    /// Whether a remittance line is booked on it.
    pub remitted: bool,
}

/// Checks the rules of a resubmission, except those of the details by themselves. Field paths are relative to the
/// request.
pub fn check_resubmission(
    submitted: SubmittedClaim<'_>,
    resubmission: &Resubmission,
    corrected: Option<&ClaimDetails>,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let answers_remittance = matches!(
        resubmission.r#type(),
        ResubmissionType::Correction | ResubmissionType::InternalComplaint
    );
    if answers_remittance && !submitted.remitted {
        let message = "a correction or a complaint needs an earlier remittance";
        found.push(Violation::new(
            "NO_EARLIER_REMITTANCE",
            "resubmission.type",
            message,
        ));
    }
    if let Some(corrected) = corrected {
        number(submitted.details, corrected, &mut found);
        activity_ids(submitted.details, corrected, &mut found);
        nets(submitted.details, corrected, &mut found);
    }
    found
}

fn number(submitted: &ClaimDetails, corrected: &ClaimDetails, found: &mut Vec<Violation>) {
    for (field, was, is) in [
        ("details.claim_id", &submitted.claim_id, &corrected.claim_id),
        (
            "details.provider_id",
            &submitted.provider_id,
            &corrected.provider_id,
        ),
    ] {
        if was != is {
            let message = format!("must remain {was:?}: a different number identifies a different claim");
            found.push(Violation::new("CLAIM_NUMBER_CHANGED", field, message));
        }
    }
}

fn activity_ids(submitted: &ClaimDetails, corrected: &ClaimDetails, found: &mut Vec<Violation>) {
    let missing = |from: &ClaimDetails, in_: &ClaimDetails| -> Vec<String> {
        let ids = from.activities.iter().map(|activity| &activity.id);
        ids.filter(|id| !in_.activities.iter().any(|activity| activity.id == **id))
            .cloned()
            .collect()
    };
    let (removed, added) = (missing(submitted, corrected), missing(corrected, submitted));
    if !removed.is_empty() || !added.is_empty() {
        let message = format!(
            "the activity ids must not change; missing: {}; new: {}",
            list(&removed),
            list(&added)
        );
        found.push(Violation::new(
            "ACTIVITY_IDS_CHANGED",
            "details.activities",
            message,
        ));
    }
}

fn list(ids: &[String]) -> String {
    if ids.is_empty() {
        "none".to_owned()
    } else {
        ids.join(", ")
    }
}

/// The amounts must not change, because the order's split and its ledger entries depend on them.
fn nets(submitted: &ClaimDetails, corrected: &ClaimDetails, found: &mut Vec<Violation>) {
    const MESSAGE: &str = "must not change, because the order was charged with this amount";
    let changed = |was: Option<&Money>, is: Option<&Money>| {
        was.map(|was| (was.units, was.nanos)) != is.map(|is| (is.units, is.nanos))
    };
    if changed(submitted.net.as_ref(), corrected.net.as_ref()) {
        found.push(Violation::new("NET_CHANGED", "details.net", MESSAGE));
    }
    let was: HashMap<&str, Option<&Money>> = submitted
        .activities
        .iter()
        .map(|activity| (activity.id.as_str(), activity.net.as_ref()))
        .collect();
    for (index, activity) in corrected.activities.iter().enumerate() {
        if was
            .get(activity.id.as_str())
            .is_some_and(|was| changed(*was, activity.net.as_ref()))
        {
            found.push(Violation::new(
                "NET_CHANGED",
                format!("details.activities[{index}].net"),
                MESSAGE,
            ));
        }
    }
}

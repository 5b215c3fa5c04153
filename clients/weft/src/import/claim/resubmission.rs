//! A claim with a Resubmission block: resubmits the existing claim.

use std::collections::BTreeSet;

use money::Money;
use prost::Message as _;
use proto::claims::v1::{Claim, ClaimDetails, GetClaimRequest, Resubmission, ResubmitClaimRequest};
use sha2::{Digest as _, Sha256};

use crate::import::{
    place_order::ImportResult, report::Outcome, request_id, retrying_client::RetryingClient,
};

pub(crate) async fn resubmit(
    client: &RetryingClient,
    details: &ClaimDetails,
    reason: &Resubmission,
    test: bool,
) -> ImportResult {
    let request = GetClaimRequest {
        id: String::new(),
        provider_id: details.provider_id.clone(),
        claim_id: details.claim_id.clone(),
    };
    let answer = client
        .call(request, |message| {
            let mut stub = client.clients.claims();
            async move { stub.get_claim(message).await }
        })
        .await;
    let claim = match answer {
        Ok(response) => response.into_inner().claim.unwrap_or_default(),
        Err(error) => return ImportResult::from_error(&error),
    };
    let gross = details
        .gross
        .as_ref()
        .and_then(|gross| Money::try_from(gross).ok());
    let result = |outcome, reason| ImportResult {
        outcome,
        gross,
        reason,
    };
    if is_already_filed(&claim, details, reason) {
        return result(Outcome::Unchanged, String::new());
    }
    if test {
        return match missing_activities(&claim, details) {
            None => result(Outcome::New, String::new()),
            Some(missing) => result(
                Outcome::Refused,
                format!("RESUBMISSION_ACTIVITIES: {missing} must be kept"),
            ),
        };
    }
    let request = ResubmitClaimRequest {
        request_id: resubmission_request_id(client.clients.facility(), details, reason),
        id: String::new(),
        resubmission: Some(reason.clone()),
        details: Some(details.clone()),
    };
    match client
        .call(request, |message| {
            let mut stub = client.clients.claims();
            async move { stub.resubmit_claim(message).await }
        })
        .await
    {
        Ok(_) => result(Outcome::New, String::new()),
        Err(error) => ImportResult::from_error(&error),
    }
}

/// Whether the claim has this resubmission already. This works even after the service has pruned the request id.
fn is_already_filed(claim: &Claim, details: &ClaimDetails, reason: &Resubmission) -> bool {
    let Some((last, earlier)) = claim.resubmissions.split_last() else {
        return false;
    };
    // The claim has only the details of the last cycle, which must be equal.
    earlier.contains(reason)
        || last == reason
            && claim
                .details
                .as_ref()
                .is_some_and(|filed| is_same_claim(filed, details))
}

/// Compares the details; claims filed before the receiver was stored have none.
fn is_same_claim(filed: &ClaimDetails, details: &ClaimDetails) -> bool {
    filed == details
        || filed.receiver_id.is_empty()
            && *filed
                == ClaimDetails {
                    receiver_id: String::new(),
                    ..details.clone()
                }
}

fn missing_activities(claim: &Claim, details: &ClaimDetails) -> Option<String> {
    let ids = |details: &ClaimDetails| -> BTreeSet<String> {
        details
            .activities
            .iter()
            .map(|activity| activity.id.clone())
            .collect()
    };
    let known = claim.details.as_ref().map(ids).unwrap_or_default();
    let missing: Vec<String> = known.difference(&ids(details)).cloned().collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// The request id of a resubmission. It includes the content, because a claim may be resubmitted several times.
fn resubmission_request_id(facility: &str, details: &ClaimDetails, reason: &Resubmission) -> String {
    let content = Sha256::new()
        .chain_update(details.encode_to_vec())
        .chain_update(reason.encode_to_vec());
    let content = hex::encode(content.finalize());
    request_id(
        facility,
        "resubmission",
        &[&details.provider_id, &details.claim_id, &content],
    )
    .to_string()
}

#[cfg(test)]
mod tests {
    use proto::claims::v1::ResubmissionType;

    use super::*;

    fn reason(comment: &str) -> Resubmission {
        Resubmission {
            r#type: ResubmissionType::Correction.into(),
            comment: comment.into(),
            ..Resubmission::default()
        }
    }

    fn details(member: &str) -> ClaimDetails {
        ClaimDetails {
            member_id: member.into(),
            ..ClaimDetails::default()
        }
    }

    #[test]
    fn a_resubmission_is_recognised_on_the_claim_itself() {
        let claim = Claim {
            details: Some(details("m")),
            resubmissions: vec![reason("first"), reason("second")],
            ..Claim::default()
        };
        assert!(is_already_filed(
            &claim,
            &details("as it was then"),
            &reason("first")
        ));
        assert!(is_already_filed(&claim, &details("m"), &reason("second")));
        assert!(!is_already_filed(
            &claim,
            &details("corrected"),
            &reason("second")
        ));
        assert!(!is_already_filed(&claim, &details("m"), &reason("third")));
    }

    #[test]
    fn each_cycle_has_a_request_id_of_its_own() {
        assert_eq!(
            resubmission_request_id("f", &details("m"), &reason("a")),
            resubmission_request_id("f", &details("m"), &reason("a"))
        );
        assert_ne!(
            resubmission_request_id("f", &details("m"), &reason("a")),
            resubmission_request_id("f", &details("m"), &reason("b"))
        );
        assert_ne!(
            resubmission_request_id("f", &details("m"), &reason("a")),
            resubmission_request_id("f", &details("n"), &reason("a"))
        );
    }
}

//! A new claim: places an insured order, with the claim's activities as lines.

use money::Money;
use proto::{
    claims::v1::ClaimDetails,
    order::v1::{CaptureMode, PlaceOrderLine, PlaceOrderRequest},
};

use crate::import::{
    order_batcher::OrderBatcher,
    place_order::{self, ImportResult},
    request_id,
    submission::CURRENCY,
};

/// The contract's limit for a reference.
const MAX_REFERENCE_BYTES: usize = 100;

pub(crate) async fn place(
    orders: &OrderBatcher,
    details: &ClaimDetails,
    payment_method: &str,
    test: bool,
) -> ImportResult {
    let facility = orders.client.clients.facility();
    place_order::place_and_wait(orders, request(facility, details, payment_method, test)).await
}

fn request(facility: &str, details: &ClaimDetails, payment_method: &str, test: bool) -> PlaceOrderRequest {
    // A test must not use the request id of the real import.
    let kind = if test { "claim check" } else { "claim" };
    let reference = format!("{}/{}", details.provider_id, details.claim_id);
    PlaceOrderRequest {
        request_id: request_id(facility, kind, &[&details.provider_id, &details.claim_id]).to_string(),
        reference: if reference.len() > MAX_REFERENCE_BYTES {
            String::new()
        } else {
            reference
        },
        patient_id: details
            .encounter
            .as_ref()
            .map(|encounter| encounter.patient_id.clone())
            .unwrap_or_default(),
        lines: lines(details),
        patient_share: details.patient_share.clone(),
        claim: Some(details.clone()),
        payment_method: payment_method.to_owned(),
        capture_mode: CaptureMode::Immediate.into(),
        validate_only: test,
    }
}

/// One line for each activity. eClaimLink has only net prices for activities, so the gross is allocated to them in
/// proportion, without losing a fils.
fn lines(details: &ClaimDetails) -> Vec<PlaceOrderLine> {
    let read = |wire: &Option<_>| wire.as_ref().and_then(|wire| Money::try_from(wire).ok());
    let weight = |net: Money| u64::try_from(net.minor()).unwrap_or(0);
    let weights: Vec<u64> = details
        .activities
        .iter()
        .map(|activity| read(&activity.net).map_or(0, weight))
        .collect();
    let gross = read(&details.gross).unwrap_or(Money::zero(CURRENCY));
    let line = |(activity, amount): (&proto::claims::v1::Activity, Money)| PlaceOrderLine {
        code: activity.code.clone(),
        description: format!("{} {}", code_system(activity.r#type), activity.id)
            .trim()
            .to_owned(),
        quantity: activity.quantity.clone(),
        amount: Some(amount.into()),
    };
    details
        .activities
        .iter()
        .zip(gross.allocate(&weights))
        .map(line)
        .collect()
}

/// The code system of an eClaimLink Activity.Type.
fn code_system(kind: i32) -> &'static str {
    match kind {
        3 => "CPT",
        4 => "HCPCS",
        5 => "drug",
        6 => "dental",
        8 => "service",
        9 => "DRG",
        10 => "scientific",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use proto::claims::v1::Activity;

    use super::*;

    fn claim(gross: i64, nets: &[i64]) -> ClaimDetails {
        let activity = |net: &i64| Activity {
            net: Some(Money::new(*net, CURRENCY).into()),
            ..Activity::default()
        };
        ClaimDetails {
            claim_id: "CLM-1".into(),
            provider_id: "FAC-1".into(),
            gross: Some(Money::new(gross, CURRENCY).into()),
            activities: nets.iter().map(activity).collect(),
            ..ClaimDetails::default()
        }
    }

    fn amounts(gross: i64, nets: &[i64]) -> Vec<String> {
        let lines = lines(&claim(gross, nets));
        lines
            .iter()
            .map(|line| {
                Money::try_from(line.amount.as_ref().unwrap())
                    .unwrap()
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn the_gross_is_allocated_in_proportion_to_net_without_loss() {
        assert_eq!(
            amounts(50_000, &[15_000, 10_000, 15_000]),
            ["187.50", "125.00", "187.50"]
        );
        assert_eq!(amounts(1_000, &[1, 1, 1]), ["3.34", "3.33", "3.33"]);
        assert_eq!(amounts(1_000, &[0, 0]), ["5.00", "5.00"]);
    }

    #[test]
    fn a_test_and_the_real_import_have_different_request_ids() {
        let real = request("f", &claim(100, &[100]), "tok_visa", false);
        let check = request("f", &claim(100, &[100]), "tok_visa", true);
        assert_eq!(real.reference, "FAC-1/CLM-1");
        assert!(check.validate_only && real.request_id != check.request_id);
    }
}

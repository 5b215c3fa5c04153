//! Formats claims.

use proto::{
    claims::v1::{Claim, FinancialStatus, ResubmissionType},
    google::r#type::Money,
};

use crate::output::{self, Table, dubai_timestamp, money, short_name};

/// Prints a claim, its activities, its remittance lines and its resubmissions.
pub(crate) fn claim(claim: &Claim) {
    let details = claim.details.clone().unwrap_or_default();
    output::print_fields(&[
        ("claim", claim.id.clone()),
        ("number", number(claim)),
        ("order", claim.order_id.clone()),
        ("payer", details.payer_id.clone()),
        ("payer's number", claim.id_payer.clone()),
        ("state", short_name(claim.state().as_str_name())),
        ("cycle", claim.cycle.to_string()),
        ("rejected", claim.rejection.clone()),
        ("payer has", short_name(claim.financial_status().as_str_name())),
        ("gross", money(details.gross.as_ref())),
        ("patient share", money(details.patient_share.as_ref())),
        ("net", money(details.net.as_ref())),
        ("paid", money(claim.paid.as_ref())),
        ("taken back", money(claim.taken_back.as_ref())),
        ("net paid", money(claim.net_paid.as_ref())),
        ("open", money(claim.outstanding.as_ref())),
        ("paid above net", unless_zero(claim.paid_above_net.as_ref())),
        (
            "taken above paid",
            unless_zero(claim.taken_back_above_paid.as_ref()),
        ),
    ]);
    let mut activities = Table::new(
        ["ACTIVITY", "PAID?", ">NET", ">PAID", ">TAKEN BACK", "DENIAL"],
        "no activities",
    );
    for activity in &claim.activities {
        let status = FinancialStatus::try_from(activity.financial_status).unwrap_or_default();
        activities.row([
            activity.activity_id.clone(),
            short_name(status.as_str_name()),
            money(activity.net.as_ref()),
            money(activity.paid.as_ref()),
            money(activity.taken_back.as_ref()),
            activity.denial_code.clone(),
        ]);
    }
    print!("\n{activities}");
    let mut lines = Table::new(
        ["ACTIVITY", ">PAYMENT", "DENIAL", "REFERENCE", "SETTLED", "FILE"],
        "no remittance yet",
    );
    for line in &claim.remittance_lines {
        lines.row([
            line.activity_id.clone(),
            money(line.payment.as_ref()),
            line.denial_code.clone(),
            line.payment_reference.clone(),
            dubai_timestamp(line.settlement_time.as_ref()),
            line.file_name.clone(),
        ]);
    }
    print!("\n{lines}");
    for resubmission in &claim.resubmissions {
        let kind = short_name(
            ResubmissionType::try_from(resubmission.r#type)
                .unwrap_or_default()
                .as_str_name(),
        );
        println!("filed again as {kind}: {}", resubmission.comment);
    }
}

/// An amount that is shown only if it is not zero.
fn unless_zero(amount: Option<&Money>) -> String {
    money(amount.filter(|amount| (amount.units, amount.nanos) != (0, 0)))
}

/// One row of a list.
pub(crate) fn row(claim: &Claim) -> [String; 9] {
    let details = claim.details.clone().unwrap_or_default();
    [
        claim.id.clone(),
        number(claim),
        details.payer_id,
        short_name(claim.state().as_str_name()),
        claim.cycle.to_string(),
        short_name(claim.financial_status().as_str_name()),
        money(details.net.as_ref()),
        money(claim.net_paid.as_ref()),
        money(claim.outstanding.as_ref()),
    ]
}

/// The facility's number of the claim as PROVIDER/CLAIM, which `weft claim get` accepts.
fn number(claim: &Claim) -> String {
    let details = claim.details.as_ref();
    details
        .map(|details| format!("{}/{}", details.provider_id, details.claim_id))
        .unwrap_or_default()
}

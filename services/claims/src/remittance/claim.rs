//! Maps eClaimLink elements to a claim and its lines.

use eclaimlink::{Element, Fields, Header};
use money::{Currency, Decimal, Money};

use super::{Claim, Fault, Line};
use crate::rules::MAX_AMOUNT;

/// The largest number of activities of a claim, as in the contract.
const MAX_ACTIVITIES: usize = 1_000;
const ACTIVITY_TYPES: [i64; 7] = [3, 4, 5, 6, 8, 9, 10];

/// Decodes a claim. What cannot be decoded is reported in its faults and in those of its lines.
pub(super) fn decode(read: eclaimlink::Claim, header: &Header) -> Claim {
    let element = &read.element;
    let mut fields = Fields::new(element, "Claim");
    let id = fields.text("ID", 100);
    let id_payer = fields.text("IDPayer", 50);
    let mut provider_id = fields.optional_licence("ProviderID");
    if provider_id.is_empty() {
        provider_id.clone_from(&header.receiver_id);
    }
    let denial_code = fields.optional_text("DenialCode", 50);
    let payment_reference = fields.optional_text("PaymentReference", 25);
    let settled_at = fields
        .optional_date("DateSettlement")
        .unwrap_or(header.transaction_at);
    let lines: Vec<Line> = element
        .all("Activity")
        .take(MAX_ACTIVITIES)
        .enumerate()
        .map(|(index, activity)| line(activity, index, &denial_code))
        .collect();
    match element.all("Activity").count() {
        0 => fields.invalid("Activity", "is missing: a claim needs at least one"),
        1..=MAX_ACTIVITIES => {}
        count => fields.invalid(
            "Activity",
            &format!("comes {count} times, more than {MAX_ACTIVITIES}"),
        ),
    }
    // A denial needs no payment reference.
    let has_payment = lines
        .iter()
        .any(|line| line.payment.is_some_and(|payment| payment != 0));
    if has_payment && payment_reference.is_empty() && element.child("PaymentReference").is_none_or(is_empty) {
        fields.invalid("PaymentReference", "is empty, and the claim has a payment");
    }
    let mut faults = read.faults;
    if read.whole {
        faults.extend(fields.into_faults());
    }
    Claim {
        ordinal: read.ordinal,
        id,
        id_payer,
        provider_id,
        payment_reference,
        settled_at,
        lines,
        sender_id: header.sender_id.clone(),
        faults: faults.into_iter().map(Fault::from).collect(),
        remarks: read.remarks.into_iter().map(Fault::from).collect(),
    }
}

fn line(element: &Element, index: usize, claim_denial_code: &str) -> Line {
    let mut fields = Fields::new(element, format!("Claim.Activity[{index}]"));
    let activity_id = fields.text("ID", 30);
    let start = fields.date("Start");
    let kind = fields.whole_number("Type");
    if kind.is_some_and(|kind| !ACTIVITY_TYPES.contains(&kind)) {
        fields.invalid("Type", "must be one of 3, 4, 5, 6, 8, 9, 10");
    }
    fields.text("Code", 50);
    quantity(&mut fields);
    let net = amount(&mut fields, "Net");
    optional_amount(&mut fields, "List");
    fields.text("Clinician", 50);
    fields.optional_text("PriorAuthorizationID", 50);
    optional_amount(&mut fields, "Gross");
    optional_amount(&mut fields, "PatientShare");
    let payment = amount(&mut fields, "PaymentAmount");
    let own_denial_code = fields.optional_text("DenialCode", 50);
    // The claim's code applies to activities without one. A full payment needs none.
    let is_short = payment.zip(net).is_some_and(|(payment, net)| payment < net);
    let denial_code = if own_denial_code.is_empty() && is_short {
        claim_denial_code.to_owned()
    } else {
        own_denial_code
    };
    Line {
        activity_id,
        start,
        net,
        payment,
        denial_code,
        faults: fields.into_faults().into_iter().map(Fault::from).collect(),
    }
}

/// Checks the quantity. It is not stored.
fn quantity(fields: &mut Fields<'_>) {
    let Some(text) = fields.number("Quantity") else {
        return;
    };
    if text.starts_with('-') {
        fields.invalid("Quantity", "must not be below 0");
    } else if let Err(error) = text.parse::<Decimal>() {
        fields.invalid("Quantity", &error.to_string());
    }
}

/// Reads an amount in dirham as fils.
fn amount(fields: &mut Fields<'_>, name: &str) -> Option<i64> {
    let text = fields.number(name)?;
    fils(fields, name, &text)
}

fn optional_amount(fields: &mut Fields<'_>, name: &str) -> Option<i64> {
    let text = fields.optional_number(name)?;
    fils(fields, name, &text)
}

fn fils(fields: &mut Fields<'_>, name: &str, text: &str) -> Option<i64> {
    match Money::parse(text, Currency::AED) {
        Ok(amount) if amount.minor().abs() <= MAX_AMOUNT => Some(amount.minor()),
        Ok(_) => {
            fields.invalid(name, "is too large");
            None
        }
        Err(error) => {
            fields.invalid(name, &format!("is {text}: {error}"));
            None
        }
    }
}

fn is_empty(element: &Element) -> bool {
    element.text.is_empty()
}

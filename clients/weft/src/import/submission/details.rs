//! Maps eClaimLink's elements to the contract's messages, and reports every violated field by its path.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use eclaimlink::{Element, Fault, Fields};
use money::{Decimal, Money};
use prost_types::Timestamp;
use proto::claims::v1::{
    Activity, ClaimDetails, Diagnosis, DiagnosisType, Encounter, Observation, Resubmission, ResubmissionType,
};

use super::{CURRENCY, ParsedClaim};

/// No bound here: the claims service checks the length and names the field.
const UNBOUNDED: usize = usize::MAX;

/// Parses a claim. The claims service checks the rules of eClaimLink.
pub(super) fn read(read: &eclaimlink::Claim, receiver_id: &str) -> Result<ParsedClaim, Vec<Fault>> {
    let mut faults = read.faults.clone();
    let parsed = claim(&read.element, receiver_id, &mut faults);
    if faults.is_empty() {
        return Ok(parsed);
    }
    // Of a claim above a limit only the beginning was read, so its missing fields are not reported.
    Err(if read.whole { faults } else { read.faults.clone() })
}

/// Gross, if it can be parsed.
pub(super) fn gross(element: &Element) -> Option<Money> {
    let mut fields = Fields::new(element, "Claim");
    let gross = fields.optional_number("Gross")?;
    Money::parse(&gross, CURRENCY).ok()
}

fn claim(element: &Element, receiver_id: &str, faults: &mut Vec<Fault>) -> ParsedClaim {
    let mut fields = Fields::new(element, "Claim");
    let details = ClaimDetails {
        claim_id: fields.text("ID", UNBOUNDED),
        id_payer: fields.optional_text("IDPayer", UNBOUNDED),
        member_id: fields.optional_text("MemberID", UNBOUNDED),
        payer_id: fields.text("PayerID", UNBOUNDED),
        provider_id: fields.licence("ProviderID"),
        emirates_id_number: fields.text("EmiratesIDNumber", UNBOUNDED),
        gross: money(&mut fields, "Gross"),
        patient_share: money(&mut fields, "PatientShare"),
        net: money(&mut fields, "Net"),
        encounter: read_one(element, "Claim", "Encounter", faults, encounter),
        diagnoses: read_all(element, "Claim", "Diagnosis", faults, diagnosis),
        activities: activities(element, faults),
        package_name: read_one(element, "Claim", "Contract", faults, |fields| {
            fields.optional_text("PackageName", UNBOUNDED)
        })
        .unwrap_or_default(),
        receiver_id: receiver_id.to_owned(),
    };
    let resubmission = read_one(element, "Claim", "Resubmission", faults, resubmission);
    // Faults of the claim's own fields come before those of nested elements.
    let mut own = fields.into_faults();
    own.append(faults);
    *faults = own;
    ParsedClaim {
        details,
        resubmission,
    }
}

fn encounter(fields: &mut Fields<'_>) -> Encounter {
    Encounter {
        facility_id: fields.text("FacilityID", UNBOUNDED),
        r#type: code(fields, "Type"),
        patient_id: fields.text("PatientID", UNBOUNDED),
        start_time: fields.date("Start").map(timestamp),
        end_time: fields.optional_date("End").map(timestamp),
        start_type: optional_code(fields, "StartType"),
        end_type: optional_code(fields, "EndType"),
        transfer_source: fields.optional_text("TransferSource", UNBOUNDED),
        transfer_destination: fields.optional_text("TransferDestination", UNBOUNDED),
    }
}

fn diagnosis(fields: &mut Fields<'_>) -> Diagnosis {
    let kind = match fields.text("Type", UNBOUNDED).as_str() {
        "Principal" => DiagnosisType::Principal,
        "Secondary" => DiagnosisType::Secondary,
        "Admitting" => DiagnosisType::Admitting,
        "" => DiagnosisType::Unspecified,
        _ => {
            fields.invalid("Type", "is none of Principal, Secondary, Admitting");
            DiagnosisType::Unspecified
        }
    };
    Diagnosis {
        r#type: kind.into(),
        code: fields.text("Code", UNBOUNDED),
    }
}

fn activities(claim: &Element, faults: &mut Vec<Fault>) -> Vec<Activity> {
    let mut activities = Vec::new();
    for (index, element) in claim.all("Activity").enumerate() {
        let path = format!("Claim.Activity[{index}]");
        let mut fields = Fields::new(element, path.clone());
        let mut activity = activity(&mut fields);
        faults.extend(fields.into_faults());
        activity.observations = read_all(element, &path, "Observation", faults, |fields| Observation {
            r#type: fields.text("Type", UNBOUNDED),
            code: fields.text("Code", UNBOUNDED),
            value: fields.optional_lines("Value", UNBOUNDED),
            value_type: fields.optional_text("ValueType", UNBOUNDED),
        });
        activities.push(activity);
    }
    activities
}

fn activity(fields: &mut Fields<'_>) -> Activity {
    Activity {
        id: fields.text("ID", UNBOUNDED),
        start_time: fields.date("Start").map(timestamp),
        r#type: code(fields, "Type"),
        code: fields.text("Code", UNBOUNDED),
        quantity: quantity(fields),
        net: money(fields, "Net"),
        clinician: fields.text("Clinician", UNBOUNDED),
        prior_authorization_id: fields.optional_text("PriorAuthorizationID", UNBOUNDED),
        observations: Vec::new(),
    }
}

fn resubmission(fields: &mut Fields<'_>) -> Resubmission {
    let kind = match fields.text("Type", UNBOUNDED).as_str() {
        "correction" => ResubmissionType::Correction,
        "internal complaint" => ResubmissionType::InternalComplaint,
        "legacy" => ResubmissionType::Legacy,
        "reconciliation" => ResubmissionType::Reconciliation,
        "" => ResubmissionType::Unspecified,
        _ => {
            fields.invalid(
                "Type",
                "is none of correction, internal complaint, legacy, reconciliation",
            );
            ResubmissionType::Unspecified
        }
    };
    let attachment: String = fields
        .optional_lines("Attachment", UNBOUNDED)
        .split_ascii_whitespace()
        .collect();
    let attachment = STANDARD.decode(attachment).unwrap_or_else(|_| {
        fields.invalid("Attachment", "is not base64");
        Vec::new()
    });
    Resubmission {
        r#type: kind.into(),
        comment: fields.optional_lines("Comment", UNBOUNDED),
        attachment,
    }
}

fn money(fields: &mut Fields<'_>, name: &str) -> Option<proto::google::r#type::Money> {
    let text = fields.number(name)?;
    match Money::parse(&text, CURRENCY) {
        Ok(money) => Some(money.into()),
        Err(error) => {
            fields.invalid(name, &format!("is {text}: {error}"));
            None
        }
    }
}

fn quantity(fields: &mut Fields<'_>) -> Option<proto::google::r#type::Decimal> {
    let text = fields.number("Quantity")?;
    match text.parse::<Decimal>() {
        Ok(quantity) => Some(quantity.into()),
        Err(error) => {
            fields.invalid("Quantity", &error.to_string());
            None
        }
    }
}

fn code(fields: &mut Fields<'_>, name: &str) -> i32 {
    let code = fields.whole_number(name);
    to_i32(fields, name, code)
}

fn optional_code(fields: &mut Fields<'_>, name: &str) -> i32 {
    let code = fields.optional_whole_number(name);
    to_i32(fields, name, code)
}

fn to_i32(fields: &mut Fields<'_>, name: &str, code: Option<i64>) -> i32 {
    let Some(code) = code else {
        return 0;
    };
    i32::try_from(code).unwrap_or_else(|_| {
        fields.invalid(name, "is no code");
        0
    })
}

fn timestamp(at: time::OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: at.unix_timestamp(),
        nanos: 0,
    }
}

fn read_one<T>(
    element: &Element,
    path: &str,
    name: &str,
    faults: &mut Vec<Fault>,
    read: impl FnOnce(&mut Fields<'_>) -> T,
) -> Option<T> {
    let mut fields = Fields::new(element.child(name)?, format!("{path}.{name}"));
    let value = read(&mut fields);
    faults.extend(fields.into_faults());
    Some(value)
}

fn read_all<T>(
    element: &Element,
    path: &str,
    name: &str,
    faults: &mut Vec<Fault>,
    mut read: impl FnMut(&mut Fields<'_>) -> T,
) -> Vec<T> {
    let mut values = Vec::new();
    for (index, element) in element.all(name).enumerate() {
        let mut fields = Fields::new(element, format!("{path}.{name}[{index}]"));
        values.push(read(&mut fields));
        faults.extend(fields.into_faults());
    }
    values
}

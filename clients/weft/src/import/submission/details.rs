//! From eClaimLink's elements to the contract's messages, every violated field by its path.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use money::{Decimal, Money};
use prost_types::Timestamp;
use proto::claims::v1::{
    Activity, ClaimDetails, Diagnosis, DiagnosisType, Encounter, Observation, Resubmission, ResubmissionType,
};
use time::{
    PrimitiveDateTime, UtcOffset, format_description::BorrowedFormatItem, macros::format_description,
};

use super::{CURRENCY, Header, Reading, element::Element};

/// A violated rule, and where.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Violation {
    /// UPPER_SNAKE.
    pub(crate) rule: &'static str,
    /// The element, as a path.
    pub(crate) place: String,
    pub(crate) message: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, place: impl Into<String>, message: impl Into<String>) -> Violation {
        Violation {
            rule,
            place: place.into(),
            message: message.into(),
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} {}", self.rule, self.place, self.message)
    }
}

/// Checks the header against eClaimLink's rules and against the number of claims that are there.
pub(crate) fn header(element: &Element, claims: u64, violations: &mut Vec<Violation>) -> Header {
    let mut fields = Fields {
        element,
        path: "Header".to_owned(),
        violations,
    };
    let sender = fields.word("SenderID");
    let receiver = fields.word("ReceiverID");
    fields.time("TransactionDate");
    let count = fields.required("RecordCount");
    let disposition = fields.required("DispositionFlag");
    let mut violate = |rule, place: &str, message: String| {
        violations.push(Violation::new(rule, format!("Header.{place}"), message));
    };
    match count.parse::<u64>() {
        _ if count.is_empty() => {}
        Ok(count) if count == claims => {}
        Ok(count) => violate(
            "RECORD_COUNT",
            "RecordCount",
            format!("is {count}, the file has {claims} claims"),
        ),
        Err(_) => violate(
            "RECORD_COUNT",
            "RecordCount",
            format!("`{count}` is no whole number"),
        ),
    }
    if !matches!(disposition.as_str(), "" | "TEST" | "PRODUCTION") {
        violate(
            "DISPOSITION_FLAG",
            "DispositionFlag",
            format!("`{disposition}` is neither TEST nor PRODUCTION"),
        );
    }
    Header {
        sender,
        receiver,
        test: disposition == "TEST",
    }
}

/// Reads a claim. What makes sense of it as a claim, the rules of eClaimLink, is the claims service's business.
pub(crate) fn claim(element: &Element) -> Result<Reading, Vec<Violation>> {
    let mut violations = Vec::new();
    let mut fields = Fields {
        element,
        path: "Claim".to_owned(),
        violations: &mut violations,
    };
    let details = ClaimDetails {
        claim_id: fields.required("ID"),
        id_payer: fields.optional("IDPayer"),
        member_id: fields.optional("MemberID"),
        payer_id: fields.required("PayerID"),
        provider_id: fields.word("ProviderID"),
        emirates_id_number: fields.required("EmiratesIDNumber"),
        gross: fields.money("Gross"),
        patient_share: fields.money("PatientShare"),
        net: fields.money("Net"),
        encounter: fields.one("Encounter", encounter),
        diagnoses: fields.every("Diagnosis", diagnosis),
        activities: fields.every("Activity", activity),
        package_name: fields
            .one("Contract", |fields| fields.optional("PackageName"))
            .unwrap_or_default(),
    };
    let resubmission = fields.one("Resubmission", resubmission);
    if violations.is_empty() {
        Ok(Reading {
            details,
            resubmission,
        })
    } else {
        Err(violations)
    }
}

fn encounter(fields: &mut Fields<'_>) -> Encounter {
    Encounter {
        facility_id: fields.required("FacilityID"),
        r#type: fields.code("Type"),
        patient_id: fields.required("PatientID"),
        start_time: fields.time("Start"),
        end_time: fields.optional_time("End"),
        start_type: fields.optional_code("StartType"),
        end_type: fields.optional_code("EndType"),
        transfer_source: fields.optional("TransferSource"),
        transfer_destination: fields.optional("TransferDestination"),
    }
}

fn diagnosis(fields: &mut Fields<'_>) -> Diagnosis {
    let kind = match fields.required("Type").as_str() {
        "Principal" => DiagnosisType::Principal,
        "Secondary" => DiagnosisType::Secondary,
        "Admitting" => DiagnosisType::Admitting,
        "" => DiagnosisType::Unspecified,
        other => {
            fields.violate(
                "Type",
                format!("`{other}` is none of Principal, Secondary, Admitting"),
            );
            DiagnosisType::Unspecified
        }
    };
    Diagnosis {
        r#type: kind.into(),
        code: fields.required("Code"),
    }
}

fn activity(fields: &mut Fields<'_>) -> Activity {
    Activity {
        id: fields.required("ID"),
        start_time: fields.time("Start"),
        r#type: fields.code("Type"),
        code: fields.required("Code"),
        quantity: fields.quantity("Quantity"),
        net: fields.money("Net"),
        clinician: fields.required("Clinician"),
        prior_authorization_id: fields.optional("PriorAuthorizationID"),
        observations: fields.every("Observation", |fields| Observation {
            r#type: fields.required("Type"),
            code: fields.required("Code"),
            value: fields.optional("Value"),
            value_type: fields.optional("ValueType"),
        }),
    }
}

fn resubmission(fields: &mut Fields<'_>) -> Resubmission {
    let kind = match fields.required("Type").as_str() {
        "correction" => ResubmissionType::Correction,
        "internal complaint" => ResubmissionType::InternalComplaint,
        "legacy" => ResubmissionType::Legacy,
        "reconciliation" => ResubmissionType::Reconciliation,
        "" => ResubmissionType::Unspecified,
        other => {
            fields.violate("Type", format!("`{other}` is no kind of resubmission"));
            ResubmissionType::Unspecified
        }
    };
    let attachment: String = fields.optional("Attachment").split_ascii_whitespace().collect();
    let attachment = STANDARD.decode(attachment).unwrap_or_else(|_| {
        fields.violate("Attachment", "is not base64");
        Vec::new()
    });
    Resubmission {
        r#type: kind.into(),
        comment: fields.required("Comment"),
        attachment,
    }
}

/// Reads the fields of one element and collects what is wrong with them.
struct Fields<'a> {
    element: &'a Element,
    path: String,
    violations: &'a mut Vec<Violation>,
}

impl Fields<'_> {
    fn violate(&mut self, name: &str, message: impl Into<String>) {
        self.violations.push(Violation::new(
            "UNREADABLE",
            format!("{}.{name}", self.path),
            message,
        ));
    }

    fn optional(&mut self, name: &str) -> String {
        self.element
            .child(name)
            .map(|child| child.text.clone())
            .unwrap_or_default()
    }

    fn required(&mut self, name: &str) -> String {
        let text = self.optional(name);
        if text.is_empty() {
            self.violate(name, "is missing");
        }
        text
    }

    fn word(&mut self, name: &str) -> String {
        let text = self.required(name);
        if text.contains(char::is_whitespace) {
            self.violate(name, format!("`{text}` must not have white space in it"));
        }
        text
    }

    fn money(&mut self, name: &str) -> Option<proto::google::r#type::Money> {
        let text = self.required(name);
        self.read(name, &text, |text| {
            Money::parse(text, CURRENCY).map_err(|error| error.to_string())
        })
        .map(Into::into)
    }

    fn quantity(&mut self, name: &str) -> Option<proto::google::r#type::Decimal> {
        let text = self.required(name);
        self.read(name, &text, |text| {
            text.parse::<Decimal>().map_err(|error| error.to_string())
        })
        .map(Into::into)
    }

    fn time(&mut self, name: &str) -> Option<Timestamp> {
        let text = self.required(name);
        self.read(name, &text, read_time)
    }

    fn optional_time(&mut self, name: &str) -> Option<Timestamp> {
        let text = self.optional(name);
        self.read(name, &text, read_time)
    }

    fn code(&mut self, name: &str) -> i32 {
        let text = self.required(name);
        self.read(name, &text, read_code).unwrap_or_default()
    }

    fn optional_code(&mut self, name: &str) -> i32 {
        let text = self.optional(name);
        self.read(name, &text, read_code).unwrap_or_default()
    }

    fn read<T>(&mut self, name: &str, text: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if text.is_empty() {
            return None;
        }
        read(text).map_err(|message| self.violate(name, message)).ok()
    }

    fn one<T>(&mut self, name: &str, read: impl FnOnce(&mut Fields<'_>) -> T) -> Option<T> {
        let element = self.element.child(name)?;
        Some(read(&mut Fields {
            element,
            path: format!("{}.{name}", self.path),
            violations: self.violations,
        }))
    }

    fn every<T>(&mut self, name: &str, mut read: impl FnMut(&mut Fields<'_>) -> T) -> Vec<T> {
        let mut values = Vec::new();
        for (index, element) in self.element.all(name).enumerate() {
            let path = format!("{}.{name}[{index}]", self.path);
            values.push(read(&mut Fields {
                element,
                path,
                violations: self.violations,
            }));
        }
        values
    }
}

/// `dd/MM/yyyy HH:mm`, the wall clock of the United Arab Emirates, which has had UTC+4 all along.
fn read_time(text: &str) -> Result<Timestamp, String> {
    const FORMAT: &[BorrowedFormatItem<'_>] = format_description!("[day]/[month]/[year] [hour]:[minute]");
    let offset = UtcOffset::from_hms(4, 0, 0).map_err(|error| error.to_string())?;
    let local =
        PrimitiveDateTime::parse(text, FORMAT).map_err(|_| format!("`{text}` is not dd/MM/yyyy HH:mm"))?;
    Ok(Timestamp {
        seconds: local.assume_offset(offset).unix_timestamp(),
        nanos: 0,
    })
}

fn read_code(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

//! Which elements a file has, and what is said of those that the schema does not have.
//!
//! The rule: an element that comes twice where one is allowed is refused, because nothing says which of the two counts;
//! so is a control character in a text. What the schema does not know, an element, an attribute or text between
//! elements, is not read, and is named in a remark.

use crate::{
    fault::{self, Fault, is_control},
    xml::Element,
};

/// What a file carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Claims on their way to a payer.
    Submission,
    /// What a payer says of claims.
    Remittance,
}

impl Kind {
    /// The name of the root element.
    pub fn root(self) -> &'static str {
        match self {
            Kind::Submission => "Claim.Submission",
            Kind::Remittance => "Remittance.Advice",
        }
    }

    pub(crate) fn claim(self) -> &'static [Shape] {
        match self {
            Kind::Submission => SUBMITTED_CLAIM,
            Kind::Remittance => REMITTED_CLAIM,
        }
    }
}

/// An element that the schema has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    name: &'static str,
    many: bool,
    inside: &'static [Shape],
}

const fn leaf(name: &'static str) -> Shape {
    Shape {
        name,
        many: false,
        inside: &[],
    }
}

const fn one(name: &'static str, inside: &'static [Shape]) -> Shape {
    Shape {
        name,
        many: false,
        inside,
    }
}

const fn many(name: &'static str, inside: &'static [Shape]) -> Shape {
    Shape {
        name,
        many: true,
        inside,
    }
}

pub(crate) const HEADER: &[Shape] = &[
    leaf("SenderID"),
    leaf("ReceiverID"),
    leaf("TransactionDate"),
    leaf("RecordCount"),
    leaf("DispositionFlag"),
];

const SUBMITTED_CLAIM: &[Shape] = &[
    leaf("ID"),
    leaf("IDPayer"),
    leaf("MemberID"),
    leaf("PayerID"),
    leaf("ProviderID"),
    leaf("EmiratesIDNumber"),
    leaf("Gross"),
    leaf("PatientShare"),
    leaf("Net"),
    one(
        "Encounter",
        &[
            leaf("FacilityID"),
            leaf("Type"),
            leaf("PatientID"),
            leaf("Start"),
            leaf("End"),
            leaf("StartType"),
            leaf("EndType"),
            leaf("TransferSource"),
            leaf("TransferDestination"),
        ],
    ),
    many("Diagnosis", &[leaf("Type"), leaf("Code")]),
    many(
        "Activity",
        &[
            leaf("ID"),
            leaf("Start"),
            leaf("Type"),
            leaf("Code"),
            leaf("Quantity"),
            leaf("Net"),
            leaf("Clinician"),
            leaf("PriorAuthorizationID"),
            many(
                "Observation",
                &[leaf("Type"), leaf("Code"), leaf("Value"), leaf("ValueType")],
            ),
        ],
    ),
    one(
        "Resubmission",
        &[leaf("Type"), leaf("Comment"), leaf("Attachment")],
    ),
    one("Contract", &[leaf("PackageName")]),
];

const REMITTED_CLAIM: &[Shape] = &[
    leaf("ID"),
    leaf("IDPayer"),
    leaf("ProviderID"),
    leaf("DenialCode"),
    leaf("PaymentReference"),
    leaf("DateSettlement"),
    one("Encounter", &[leaf("FacilityID")]),
    many(
        "Activity",
        &[
            leaf("ID"),
            leaf("Start"),
            leaf("Type"),
            leaf("Code"),
            leaf("Quantity"),
            leaf("Net"),
            leaf("List"),
            leaf("Clinician"),
            leaf("PriorAuthorizationID"),
            leaf("Gross"),
            leaf("PatientShare"),
            leaf("PaymentAmount"),
            leaf("DenialCode"),
        ],
    ),
];

/// What is found in one element and everything inside it.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// It cannot be taken.
    pub(crate) faults: Vec<Fault>,
    /// It was not read.
    pub(crate) remarks: Vec<Fault>,
}

impl Findings {
    /// The most faults, and the most remarks, that one element is named with.
    const MOST: usize = 20;

    fn fault(&mut self, rule: &'static str, place: String, message: impl Into<String>) {
        if self.faults.len() < Findings::MOST {
            self.faults.push(Fault::new(rule, place, message));
        }
    }

    pub(crate) fn remark(&mut self, rule: &'static str, place: String, message: impl Into<String>) {
        if self.remarks.len() < Findings::MOST {
            self.remarks.push(Fault::new(rule, place, message));
        }
    }
}

/// Compares an element with what the schema lets stand inside it.
pub(crate) fn check(element: &Element, inside: &[Shape], path: &str, findings: &mut Findings) {
    for attribute in &element.attributes {
        let place = format!("{path}@{}", cut(attribute));
        findings.remark(
            "UNKNOWN_ATTRIBUTE",
            place,
            "is not in the schema and was not read",
        );
    }
    if let Some(control) = element.text.chars().find(|character| is_control(*character)) {
        let message = format!("has the control character U+{:04X}", u32::from(control));
        findings.fault("CONTROL_CHARACTER", path.to_owned(), message);
    }
    if !inside.is_empty() && !element.text.is_empty() {
        findings.remark(
            "UNEXPECTED_TEXT",
            path.to_owned(),
            "has text between its elements, which was not read",
        );
    }
    for shape in inside.iter().filter(|shape| !shape.many) {
        let count = element.all(shape.name).count();
        if count > 1 {
            let message = format!("comes {count} times, one is allowed");
            findings.fault("ELEMENT_REPEATED", format!("{path}.{}", shape.name), message);
        }
    }
    let mut counts = vec![0_usize; inside.len()];
    for child in &element.children {
        match inside.iter().position(|shape| shape.name == child.name) {
            Some(place) => {
                let index = counts[place];
                counts[place] += 1;
                let shape = &inside[place];
                let path = match shape.many {
                    true => format!("{path}.{}[{index}]", shape.name),
                    false => format!("{path}.{}", shape.name),
                };
                check(child, shape.inside, &path, findings);
            }
            None => {
                let place = format!("{path}.{}", cut(&child.name));
                findings.remark("UNKNOWN_ELEMENT", place, "is not in the schema and was not read");
            }
        }
    }
}

/// A name of a file inside a message.
pub(crate) fn cut(name: &str) -> String {
    fault::cut(name, 40)
}

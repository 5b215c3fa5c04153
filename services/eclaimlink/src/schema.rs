//! The elements of the schema, and the check of a file's elements against it.
//!
//! An element that occurs twice where one is allowed is refused, because it is ambiguous which of the two counts.
//! A control character in a text is refused too. Elements, attributes and text between elements that are not in
//! the schema are not read and are reported in a remark.

use crate::{
    fault::{self, Fault, is_control},
    xml::Element,
};

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Claims for a payer.
    Submission,
    /// Remittance advice from a payer.
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

/// An element of the schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    name: &'static str,
    repeats: bool,
    children: &'static [Shape],
}

const fn leaf(name: &'static str) -> Shape {
    Shape {
        name,
        repeats: false,
        children: &[],
    }
}

const fn one(name: &'static str, children: &'static [Shape]) -> Shape {
    Shape {
        name,
        repeats: false,
        children,
    }
}

const fn many(name: &'static str, children: &'static [Shape]) -> Shape {
    Shape {
        name,
        repeats: true,
        children,
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

/// The findings in one element and its descendants.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Faults: the element cannot be accepted.
    pub(crate) faults: Vec<Fault>,
    /// Remarks: content that was not read.
    pub(crate) remarks: Vec<Fault>,
}

impl Findings {
    /// The largest number of faults, and of remarks, of one element.
    const MAX: usize = 20;

    fn fault(&mut self, rule: &'static str, place: String, message: impl Into<String>) {
        if self.faults.len() < Findings::MAX {
            self.faults.push(Fault::new(rule, place, message));
        }
    }

    pub(crate) fn remark(&mut self, rule: &'static str, place: String, message: impl Into<String>) {
        if self.remarks.len() < Findings::MAX {
            self.remarks.push(Fault::new(rule, place, message));
        }
    }
}

/// Checks an element and its descendants against the schema. `children` are the elements that it may contain.
pub(crate) fn check(element: &Element, children: &[Shape], path: &str, findings: &mut Findings) {
    for attribute in &element.attributes {
        let place = format!("{path}@{}", truncate(attribute));
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
    if !children.is_empty() && !element.text.is_empty() {
        findings.remark(
            "UNEXPECTED_TEXT",
            path.to_owned(),
            "has text between its elements, which was not read",
        );
    }
    for shape in children.iter().filter(|shape| !shape.repeats) {
        let count = element.all(shape.name).count();
        if count > 1 {
            let message = format!("comes {count} times, one is allowed");
            findings.fault("ELEMENT_REPEATED", format!("{path}.{}", shape.name), message);
        }
    }
    let mut counts = vec![0_usize; children.len()];
    for child in &element.children {
        match children.iter().position(|shape| shape.name == child.name) {
            Some(position) => {
                let index = counts[position];
                counts[position] += 1;
                let shape = &children[position];
                let path = if shape.repeats {
                    format!("{path}.{}[{index}]", shape.name)
                } else {
                    format!("{path}.{}", shape.name)
                };
                check(child, shape.children, &path, findings);
            }
            None => {
                let place = format!("{path}.{}", truncate(&child.name));
                findings.remark("UNKNOWN_ELEMENT", place, "is not in the schema and was not read");
            }
        }
    }
}

/// Truncates a name from a file for a message.
pub(crate) fn truncate(name: &str) -> String {
    fault::truncate(name, 40)
}

//! From XML to claims and lines, with every rule checked that the file alone can answer.

use std::{collections::HashSet, io::BufRead};

use money::Decimal;

use super::{
    Claim, Disposition, Header, Line,
    fields::Fields,
    xml::{Element, Malformed, Reader},
};
use crate::rules::{self, Violation};

/// The most activities that a claim may have, as in the contract.
const ACTIVITIES: usize = 1_000;
const ACTIVITY_TYPES: [i32; 7] = [3, 4, 5, 6, 8, 9, 10];

/// A remittance being read.
pub struct File<R: BufRead> {
    reader: Reader<R>,
    header: Header,
    claims: i32,
    id_payers: HashSet<String>,
}

/// Reads a whole file to see whether it is one: well-formed, with a header, with as many claims as it says. Nothing of
/// a file that fails here may be booked.
///
/// # Errors
/// [`Refused`] with every fault of the file as a whole.
pub fn scan<R: BufRead>(source: R) -> Result<Header, Refused> {
    let mut file = File::open(source).map_err(|faults| Refused { test: false, faults })?;
    let test = file.header.disposition == Disposition::Test;
    let mut claims = 0;
    while file
        .next_claim()
        .map_err(|fault| Refused {
            test,
            faults: vec![fault],
        })?
        .is_some()
    {
        claims += 1;
    }
    if file.header.record_count != claims {
        let message = format!(
            "says {}, but the file has {claims} claims",
            file.header.record_count
        );
        let fault = Violation::new("RECORD_COUNT_MISMATCH", "file.Header.RecordCount", message);
        return Err(Refused {
            test,
            faults: vec![fault],
        });
    }
    Ok(file.header)
}

/// A file that cannot be read.
#[derive(Debug)]
pub struct Refused {
    /// It says that it is a test.
    pub test: bool,
    /// What is wrong with it as a whole.
    pub faults: Vec<Violation>,
}

impl<R: BufRead> File<R> {
    /// Reads up to the end of the header.
    ///
    /// # Errors
    /// Every fault of the file's beginning.
    pub fn open(source: R) -> Result<File<R>, Vec<Violation>> {
        let mut reader = Reader::new(source);
        let root = reader.root().map_err(|error| vec![malformed(&error)])?;
        if root != "Remittance.Advice" {
            let message = format!("the file is a {root}, not a Remittance.Advice");
            return Err(vec![Violation::new("WRONG_ROOT", "file", message)]);
        }
        let element = reader.child().map_err(|error| vec![malformed(&error)])?;
        let Some(element) = element.filter(|element| element.name == "Header") else {
            let message = "the file must begin with a header";
            return Err(vec![Violation::new("FIELD_MISSING", "file.Header", message)]);
        };
        Ok(File {
            reader,
            header: header(&element)?,
            claims: 0,
            id_payers: HashSet::new(),
        })
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next claim, its faults and its lines' found; none after the last.
    ///
    /// # Errors
    /// When the file is not well-formed from here on.
    pub fn next_claim(&mut self) -> Result<Option<Claim>, Violation> {
        loop {
            let Some(element) = self.reader.child().map_err(|error| malformed(&error))? else {
                return Ok(None);
            };
            if element.name != "Claim" {
                continue;
            }
            let mut claim = self.claim(&element);
            self.claims += 1;
            let first = claim.id_payer.is_empty() || self.id_payers.insert(claim.id_payer.clone());
            claim
                .faults
                .extend(rules::claim_faults(&claim, &self.header, first));
            for index in 0..claim.lines.len() {
                let faults = rules::line_faults(&claim.lines[index], claim.settled_at);
                claim.lines[index].faults.extend(faults);
            }
            return Ok(Some(claim));
        }
    }

    fn claim(&self, element: &Element) -> Claim {
        let mut fields = Fields::of(element);
        let id = fields.text("ID", 100);
        let id_payer = fields.text("IDPayer", 50);
        let provider_id = fields
            .optional_licence("ProviderID")
            .unwrap_or_else(|| self.header.receiver_id.clone());
        let denial_code = fields.optional_text("DenialCode", 50).unwrap_or_default();
        let payment_reference = fields.text("PaymentReference", 25);
        let settled_at = fields
            .optional_date("DateSettlement")
            .unwrap_or(self.header.transaction_at);
        let activities: Vec<&Element> = element
            .children
            .iter()
            .filter(|child| child.name == "Activity")
            .collect();
        match activities.len() {
            0 => fields.invalid("Activity", "a claim needs at least one"),
            1..=ACTIVITIES => {}
            more => fields.invalid("Activity", &format!("{more} are more than {ACTIVITIES}")),
        }
        Claim {
            ordinal: self.claims,
            id,
            id_payer,
            provider_id,
            payment_reference,
            settled_at,
            lines: activities
                .into_iter()
                .map(|activity| line(activity, &denial_code))
                .collect(),
            faults: fields.faults,
        }
    }
}

fn header(element: &Element) -> Result<Header, Vec<Violation>> {
    let mut fields = Fields::of(element);
    let sender_id = fields.licence("SenderID");
    let receiver_id = fields.licence("ReceiverID");
    let transaction_at = fields.date("TransactionDate");
    let record_count = fields.parsed("RecordCount", "count");
    let disposition = match fields.text("DispositionFlag", 10).as_str() {
        "TEST" => Some(Disposition::Test),
        "PRODUCTION" => Some(Disposition::Production),
        "" => None,
        _ => {
            fields.invalid("DispositionFlag", "must be TEST or PRODUCTION");
            None
        }
    };
    match (transaction_at, record_count, disposition) {
        (Some(transaction_at), Some(record_count), Some(disposition)) if fields.faults.is_empty() => {
            Ok(Header {
                sender_id,
                receiver_id,
                transaction_at,
                record_count,
                disposition,
            })
        }
        _ => Err(fields
            .faults
            .into_iter()
            .map(|fault| Violation::new(fault.rule, "file.Header", fault.message))
            .collect()),
    }
}

fn line(element: &Element, claim_denial: &str) -> Line {
    let mut fields = Fields::of(element);
    let activity_id = fields.text("ID", 30);
    let start = fields.date("Start");
    let kind: Option<i32> = fields.parsed("Type", "number");
    if kind.is_some_and(|kind| !ACTIVITY_TYPES.contains(&kind)) {
        fields.invalid("Type", "is none of 3, 4, 5, 6, 8, 9, 10");
    }
    fields.text("Code", 50);
    fields.parsed::<Decimal>("Quantity", "number");
    let net = fields.amount("Net");
    fields.optional_amount("List");
    fields.text("Clinician", 50);
    fields.optional_text("PriorAuthorizationID", 50);
    fields.optional_amount("Gross");
    fields.optional_amount("PatientShare");
    let payment = fields.amount("PaymentAmount");
    let denial_code = fields.optional_text("DenialCode", 50);
    // The claim's code explains what its activities leave unexplained; a payment in full needs none.
    let short = payment.zip(net).is_some_and(|(payment, net)| payment < net);
    let denial_code = denial_code.unwrap_or_else(|| {
        if short {
            claim_denial.to_owned()
        } else {
            String::new()
        }
    });
    Line {
        activity_id,
        start,
        net,
        payment,
        denial_code,
        faults: fields.faults,
    }
}

fn malformed(error: &Malformed) -> Violation {
    Violation::new("MALFORMED", "file", format!("the file {error}"))
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;

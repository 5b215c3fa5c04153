//! What a file says of itself.

use time::OffsetDateTime;

use crate::{
    fault::{Fault, quoted},
    fields::Fields,
    schema::{self, Findings},
    xml::Element,
};

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who wrote it: a licence.
    pub sender_id: String,
    /// For whom: a licence.
    pub receiver_id: String,
    /// When it was written.
    pub transaction_at: OffsetDateTime,
    /// How many claims it says it has.
    pub record_count: u64,
    /// Whether it is meant.
    pub disposition: Disposition,
}

/// Whether a file is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// To be checked and not kept.
    Test,
    /// To be carried out.
    Production,
}

/// Whether a header, however broken, says that the file is a test.
pub(crate) fn says_test(element: &Element) -> bool {
    element
        .child("DispositionFlag")
        .is_some_and(|flag| flag.text == "TEST")
}

/// Reads a header; every fault of it is named.
pub(crate) fn read(element: &Element, findings: &mut Findings) -> Result<Header, Vec<Fault>> {
    schema::check(element, schema::HEADER, "Header", findings);
    let mut fields = Fields::new(element, "Header");
    let sender_id = fields.licence("SenderID");
    let receiver_id = fields.licence("ReceiverID");
    let transaction_at = fields.date("TransactionDate");
    let record_count = fields.whole_number("RecordCount").and_then(|count| {
        let count = u64::try_from(count).ok();
        if count.is_none() {
            fields.invalid("RecordCount", "must not be below 0");
        }
        count
    });
    let disposition = match fields.text("DispositionFlag", 10).as_str() {
        "TEST" => Some(Disposition::Test),
        "PRODUCTION" => Some(Disposition::Production),
        "" => None,
        other => {
            let message = format!("must be TEST or PRODUCTION, not {}", quoted(other));
            fields.invalid("DispositionFlag", &message);
            None
        }
    };
    let mut faults = std::mem::take(&mut findings.faults);
    faults.extend(fields.into_faults());
    match (transaction_at, record_count, disposition) {
        (Some(transaction_at), Some(record_count), Some(disposition)) if faults.is_empty() => Ok(Header {
            sender_id,
            receiver_id,
            transaction_at,
            record_count,
            disposition,
        }),
        _ => Err(faults),
    }
}

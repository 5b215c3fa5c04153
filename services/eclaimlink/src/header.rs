//! The header of a file.

use time::OffsetDateTime;

use crate::{
    fault::{Fault, quoted},
    fields::Fields,
    schema::{self, Findings},
    xml::Element,
};

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The licence of the sender.
    pub sender_id: String,
    /// The licence of the receiver.
    pub receiver_id: String,
    /// When the file was written.
    pub transaction_at: OffsetDateTime,
    /// The declared number of claims.
    pub record_count: u64,
    /// Whether the file is a test.
    pub disposition: Disposition,
}

/// Whether a file is a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The file is checked and not stored.
    Test,
    /// The file is processed.
    Production,
}

/// Whether a header, even an invalid one, has the disposition TEST.
pub(crate) fn is_test(element: &Element) -> bool {
    element
        .child("DispositionFlag")
        .is_some_and(|flag| flag.text == "TEST")
}

/// Decodes a header.
///
/// # Errors
/// All faults of the header.
pub(crate) fn decode(element: &Element, findings: &mut Findings) -> Result<Header, Vec<Fault>> {
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

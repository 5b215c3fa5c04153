//! The rules of remittances: DUPLICATE_ID_PAYER, SETTLED_AFTER_TRANSACTION, ACTIVITY_AFTER_SETTLEMENT,
//! PAYMENT_ABOVE_NET, DENIAL_CODE_MISSING. The booking checks whether a line fits a
//! submitted claim.

use time::OffsetDateTime;

use crate::remittance::{Claim, Fault, Header, Line};

/// Checks the rules of a claim as a whole. `is_first` is true if no earlier claim of the file has the same
/// IDPayer.
pub fn claim_faults(claim: &Claim, header: &Header, is_first: bool) -> Vec<Fault> {
    let mut found = Vec::new();
    if !is_first {
        let message = format!(
            "the file has an earlier claim with the payer's number {}",
            claim.id_payer
        );
        found.push(Fault::new("DUPLICATE_ID_PAYER", message));
    }
    if claim.settled_at > header.transaction_at {
        found.push(Fault::new(
            "SETTLED_AFTER_TRANSACTION",
            "the settlement date is after the date of the file",
        ));
    }
    found
}

/// Checks the rules of a line. A negative payment is a takeback and needs a denial code like any short payment.
pub fn line_faults(line: &Line, settled_at: OffsetDateTime) -> Vec<Fault> {
    let mut found = Vec::new();
    if line.start.is_some_and(|start| start > settled_at) {
        found.push(Fault::new(
            "ACTIVITY_AFTER_SETTLEMENT",
            "the settlement date is before the start of the activity",
        ));
    }
    if let (Some(payment), Some(net)) = (line.payment, line.net) {
        if payment > net {
            found.push(Fault::new("PAYMENT_ABOVE_NET", "the payment exceeds the net"));
        }
        if payment < net && line.denial_code.is_empty() {
            found.push(Fault::new(
                "DENIAL_CODE_MISSING",
                "the payment is below the net, without a denial code",
            ));
        }
    }
    found
}

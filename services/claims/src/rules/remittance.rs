//! What a remittance must keep to: DUPLICATE_ID_PAYER, SETTLED_AFTER_TRANSACTION, ACTIVITY_AFTER_SETTLEMENT,
//! PAYMENT_ABOVE_NET, DENIAL_CODE_MISSING. Whether a line fits a submitted claim is for the booking to see.

use time::OffsetDateTime;

use crate::remittance::{Claim, Fault, Header, Line};

/// Every rule that a claim breaks as a whole. `first`: no claim before it in the file has its IDPayer.
pub fn claim_faults(claim: &Claim, header: &Header, first: bool) -> Vec<Fault> {
    let mut found = Vec::new();
    if !first {
        let message = format!("the payer's number {} is in the file already", claim.id_payer);
        found.push(Fault::new("DUPLICATE_ID_PAYER", message));
    }
    if claim.settled_at > header.transaction_at {
        found.push(Fault::new(
            "SETTLED_AFTER_TRANSACTION",
            "it was settled after the file was written",
        ));
    }
    found
}

/// Every rule that a line breaks by itself. A negative payment is a takeback and needs its code as any short one does.
pub fn line_faults(line: &Line, settled_at: OffsetDateTime) -> Vec<Fault> {
    let mut found = Vec::new();
    if line.start.is_some_and(|start| start > settled_at) {
        found.push(Fault::new(
            "ACTIVITY_AFTER_SETTLEMENT",
            "it was settled before it was done",
        ));
    }
    if let (Some(payment), Some(net)) = (line.payment, line.net) {
        if payment > net {
            found.push(Fault::new("PAYMENT_ABOVE_NET", "more is paid than was asked for"));
        }
        if payment < net && line.denial_code.is_empty() {
            found.push(Fault::new(
                "DENIAL_CODE_MISSING",
                "less is paid than was asked for, without a reason",
            ));
        }
    }
    found
}

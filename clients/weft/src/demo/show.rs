//! What the services say, in a few lines.

use std::fmt::Write as _;

use proto::payment::v1::LedgerAccount;

use super::step::{Picture, amount, balance};
use crate::output::state;

/// Order, payment, claim and ledger, a line each.
pub(super) fn picture(picture: &Picture) -> String {
    let Picture {
        order,
        payment,
        claim,
        ledger,
    } = picture;
    let mut text = String::new();
    let mut line = |name: &str, stands: String, rest: String| {
        let _ = writeln!(text, "  {name:<8} {stands:<34} {rest}");
    };
    let hold = state(order.settlement_hold().as_str_name());
    let waiting = if hold.is_empty() {
        String::new()
    } else {
        format!(" (waits: {})", hold.to_lowercase())
    };
    line(
        "order",
        format!("{}{waiting}", state(order.state().as_str_name())),
        format!(
            "gross {} = share {} + payer {}; paid by payer {}, written off {}",
            amount(order.gross.as_ref()),
            amount(order.patient_share.as_ref()),
            amount(order.payer_net.as_ref()),
            amount(order.payer_paid.as_ref()),
            amount(order.written_off.as_ref()),
        ),
    );
    line(
        "payment",
        state(payment.state().as_str_name()),
        format!(
            "captured {}, refunded {}",
            amount(payment.captured.as_ref()),
            amount(payment.refunded.as_ref())
        ),
    );
    line(
        "claim",
        format!(
            "{}, {}",
            state(claim.state().as_str_name()),
            state(claim.financial_status().as_str_name())
        ),
        format!(
            "cycle {}; paid {} - taken back {} = {}",
            claim.cycle,
            amount(claim.paid.as_ref()),
            amount(claim.taken_back.as_ref()),
            amount(claim.net_paid.as_ref()),
        ),
    );
    let of = |account| balance(ledger, account);
    line(
        "ledger",
        if ledger.balanced {
            "balanced".to_owned()
        } else {
            "NOT BALANCED".to_owned()
        },
        format!(
            "cash {}, payer cash {}, payer owes {}, patient owes {}, bad debt {}, revenue {}",
            of(LedgerAccount::Cash),
            of(LedgerAccount::PayerCash),
            of(LedgerAccount::PayerReceivable),
            of(LedgerAccount::PatientReceivable),
            of(LedgerAccount::BadDebt),
            of(LedgerAccount::Revenue),
        ),
    );
    text
}

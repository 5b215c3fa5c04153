//! Formats a snapshot of the services.

use std::fmt::Write as _;

use proto::payment::v1::LedgerAccount;

use super::snapshot::{Snapshot, amount, balance};
use crate::output::short_name;

/// One line each for order, payment, claim and ledger.
pub(super) fn snapshot(snapshot: &Snapshot) -> String {
    let Snapshot {
        order,
        payment,
        claim,
        ledger,
    } = snapshot;
    let mut text = String::new();
    let mut line = |name: &str, summary: String, rest: String| {
        let _ = writeln!(text, "  {name:<8} {summary:<34} {rest}");
    };
    let hold = short_name(order.settlement_hold().as_str_name());
    let waiting = if hold.is_empty() {
        String::new()
    } else {
        format!(" (waits: {})", hold.to_lowercase())
    };
    line(
        "order",
        format!("{}{waiting}", short_name(order.state().as_str_name())),
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
        short_name(payment.state().as_str_name()),
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
            short_name(claim.state().as_str_name()),
            short_name(claim.financial_status().as_str_name())
        ),
        format!(
            "cycle {}; paid {} - taken back {} = {}",
            claim.cycle,
            amount(claim.paid.as_ref()),
            amount(claim.taken_back.as_ref()),
            amount(claim.net_paid.as_ref()),
        ),
    );
    let balance_of = |account| balance(ledger, account);
    line(
        "ledger",
        if ledger.balanced {
            "balanced".to_owned()
        } else {
            "NOT BALANCED".to_owned()
        },
        format!(
            "cash {}, payer cash {}, payer owes {}, patient owes {}, bad debt {}, revenue {}",
            balance_of(LedgerAccount::Cash),
            balance_of(LedgerAccount::PayerCash),
            balance_of(LedgerAccount::PayerReceivable),
            balance_of(LedgerAccount::PatientReceivable),
            balance_of(LedgerAccount::BadDebt),
            balance_of(LedgerAccount::Revenue),
        ),
    );
    text
}

//! Formats orders.

use std::fmt::Write as _;

use proto::order::v1::{Order, OrderRefundState};

use crate::output::{Table, money, short_name, timestamp};

/// One order on several lines.
pub(crate) fn order(order: &Order) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<16} {value}");
        }
    };
    field("order", order.id.clone());
    field("reference", order.reference.clone());
    field("patient", order.patient_id.clone());
    field("state", short_name(order.state().as_str_name()));
    field("gross", money(order.gross.as_ref()));
    field("patient share", money(order.patient_share.as_ref()));
    field("payer net", money(order.payer_net.as_ref()));
    field("other payer", money(order.other_payer.as_ref()));
    field("payer paid", money(order.payer_paid.as_ref()));
    field("patient balance", money(order.patient_balance.as_ref()));
    let credit = order.patient_credit.as_ref();
    if credit.is_some_and(|credit| credit.units != 0 || credit.nanos != 0) {
        field("patient credit", money(credit));
    }
    field("transferred", money(order.transferred.as_ref()));
    field("written off", money(order.written_off.as_ref()));
    field("refunded", money(order.refunded.as_ref()));
    field("on hold for", short_name(order.settlement_hold().as_str_name()));
    field("payment", order.payment_id.clone());
    field("claim", order.claim_id.clone());
    field("saga", order.saga_id.clone());
    field("expires", timestamp(order.expire_time.as_ref()));
    field("created", timestamp(order.create_time.as_ref()));
    if let Some(failure) = &order.failure {
        field("failed", format!("{}: {}", failure.reason, failure.message));
        for violation in &failure.violations {
            field("", format!("- {}: {}", violation.field, violation.description));
        }
    }
    for remark in &order.remarks {
        field(
            "remark",
            format!("{}: {} ({})", remark.reason, remark.message, remark.actor),
        );
    }
    let _ = write!(text, "\n{}", lines(order));
    for refund in &order.refunds {
        let state = short_name(
            OrderRefundState::try_from(refund.state)
                .unwrap_or_default()
                .as_str_name(),
        );
        let _ = writeln!(
            text,
            "refund {} {} {state} {}",
            refund.id,
            money(refund.amount.as_ref()),
            refund.reason
        );
    }
    text
}

/// One row of a list.
pub(crate) fn row(order: &Order) -> [String; 9] {
    [
        order.id.clone(),
        order.reference.clone(),
        order.patient_id.clone(),
        short_name(order.state().as_str_name()),
        money(order.gross.as_ref()),
        money(order.patient_share.as_ref()),
        money(order.payer_net.as_ref()),
        money(order.refunded.as_ref()),
        timestamp(order.create_time.as_ref()),
    ]
}

/// One change of a watched order, on one line.
pub(crate) fn change(order: &Order) -> String {
    let mut text = format!(
        "{}  version {:<3} {:<16} share {}",
        timestamp(order.update_time.as_ref()),
        order.version,
        short_name(order.state().as_str_name()),
        money(order.patient_share.as_ref()),
    );
    if order
        .payer_net
        .as_ref()
        .is_some_and(|net| net.units != 0 || net.nanos != 0)
    {
        let (net, paid) = (money(order.payer_net.as_ref()), money(order.payer_paid.as_ref()));
        let _ = write!(text, ", payer {net} of which paid {paid}");
    }
    if let Some(failure) = &order.failure {
        let _ = write!(text, ", {}: {}", failure.reason, failure.message);
    }
    text
}

fn lines(order: &Order) -> Table {
    let mut table = Table::new(
        [">#", "CODE", "DESCRIPTION", ">QUANTITY", ">AMOUNT", ">GIVEN BACK"],
        "no lines",
    );
    for line in &order.lines {
        table.row([
            line.number.to_string(),
            line.code.clone(),
            line.description.clone(),
            line.quantity
                .as_ref()
                .map(|quantity| quantity.value.clone())
                .unwrap_or_default(),
            money(line.amount.as_ref()),
            money(line.refunded_amount.as_ref()),
        ]);
    }
    table
}

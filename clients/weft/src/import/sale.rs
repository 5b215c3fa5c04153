//! One invoice of a sale: places a self-pay order that is captured at once.

use money::{Decimal, Money};
use proto::order::v1::{CaptureMode, PlaceOrderLine, PlaceOrderRequest};

use super::{
    invoice::{CURRENCY, Invoice, Item},
    order_batcher::OrderBatcher,
    place_order,
    report::{Entry, Outcome},
    request_id,
};

/// Places the invoice's order; returns an entry for the order and one for each refused line. An invoice is
/// imported as a whole or not at all: an order without the faulty lines would prevent the import of the corrected
/// invoice.
pub(crate) async fn place(orders: &OrderBatcher, invoice: &Invoice, payment_method: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut refuse = |item: &Item, reason: &str| {
        entries.push(Entry {
            document: invoice.number.clone(),
            line: item.line,
            lines: 1,
            amount: item.total,
            outcome: Outcome::Refused,
            reason: reason.to_owned(),
        });
    };
    let (taken, negative): (Vec<&Item>, Vec<&Item>) =
        invoice.items.iter().partition(|item| item.quantity > 0);
    for item in &negative {
        refuse(item, "QUANTITY: must be above zero outside a cancellation");
    }
    let broken = (invoice.faults.iter().map(|fault| fault.line))
        .chain(negative.iter().map(|item| item.line))
        .min();
    if let Some(line) = broken {
        let reason =
            format!("INVOICE_INCOMPLETE: its line {line} cannot be taken, and an invoice is taken whole");
        for item in taken {
            refuse(item, &reason);
        }
        return entries;
    }
    if taken.iter().all(|item| item.total.is_zero()) {
        for item in taken {
            refuse(item, "NO_PRICE: nothing on the invoice has a price");
        }
        return entries;
    }
    let result = place_order::place_and_wait(orders, request(orders, invoice, &taken, payment_method)).await;
    let total = Money::sum(CURRENCY, taken.iter().map(|item| item.total)).unwrap_or(Money::zero(CURRENCY));
    entries.push(Entry {
        document: invoice.number.clone(),
        line: taken[0].line,
        lines: taken.len() as u64,
        amount: result.gross.unwrap_or(total),
        outcome: result.outcome,
        reason: result.reason,
    });
    entries
}

fn request(
    orders: &OrderBatcher,
    invoice: &Invoice,
    items: &[&Item],
    payment_method: &str,
) -> PlaceOrderRequest {
    let line = |item: &&Item| PlaceOrderLine {
        code: item.code.clone(),
        description: item.description.clone(),
        quantity: Some(Decimal::new(item.quantity, 0).into()),
        amount: Some(item.total.into()),
    };
    PlaceOrderRequest {
        request_id: request_id(orders.client.clients.facility(), "order", &[&invoice.number]).to_string(),
        reference: invoice.number.clone(),
        patient_id: invoice.customer.clone(),
        lines: items.iter().map(line).collect(),
        patient_share: None,
        claim: None,
        payment_method: payment_method.to_owned(),
        capture_mode: CaptureMode::Immediate.into(),
        validate_only: false,
    }
}

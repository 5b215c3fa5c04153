//! One cancelling invoice: matches each of its lines to an earlier order of the same customer and refunds it.
//!
//! "Earlier" means a lower invoice number, not an earlier import, so that a repeated import matches the same
//! orders.

use std::time::{Duration, Instant};

use money::{Decimal, Money};
use proto::order::v1::{
    GetOrderRequest, ListOrdersRequest, Order, OrderLine, OrderRefund, OrderRefundState, OrderState,
    RefundLine, RefundOrderRequest,
};

use super::{
    invoice::{Invoice, Item},
    place_order::ImportResult,
    report::{Entry, Outcome},
    request_id,
    retrying_client::{CallError, RetryingClient},
};

/// Refunds the invoice's lines one after the other; returns an entry for each.
pub(crate) async fn refund(client: &RetryingClient, invoice: &Invoice) -> Vec<Entry> {
    let mut entries = Vec::new();
    for item in &invoice.items {
        let (outcome, amount, reason) = match refund_line(client, invoice, item).await {
            Ok((outcome, given_back)) => (
                outcome,
                given_back.checked_neg().unwrap_or(item.total),
                String::new(),
            ),
            Err((outcome, reason)) => (outcome, item.total, reason),
        };
        entries.push(Entry {
            document: invoice.number.clone(),
            line: item.line,
            lines: 1,
            amount,
            outcome,
            reason,
        });
    }
    entries
}

type LineResult = Result<(Outcome, Money), (Outcome, String)>;

async fn refund_line(client: &RetryingClient, invoice: &Invoice, item: &Item) -> LineResult {
    if item.quantity >= 0 {
        return Err((
            Outcome::Refused,
            "QUANTITY: must be below zero in a cancellation".to_owned(),
        ));
    }
    if item.total.is_zero() {
        return Err((
            Outcome::Refused,
            "NO_PRICE: there is nothing to give back".to_owned(),
        ));
    }
    if invoice.customer.is_empty() {
        return Err((
            Outcome::Unmatched,
            "NO_CUSTOMER: the orders of walk-in customers cannot be distinguished".to_owned(),
        ));
    }
    let reference = format!("{}/{}", invoice.number, item.ordinal);
    let orders = list_orders(client, &invoice.customer, &item.code).await?;
    if let Some((order, refund)) = find_refund(&orders, &reference) {
        let refund = wait_for_refund(client, order, refund.clone()).await?;
        return Ok((Outcome::RefundUnchanged, refund_amount(&refund)));
    }
    let Some((order, sold)) = best_match(&orders, invoice, item) else {
        let reason = format!(
            "NO_ORDER: no fulfilled order of customer {} with a number below {} has so many {} left",
            invoice.customer,
            invoice.number.trim_start_matches('C'),
            item.code
        );
        return Err((Outcome::Unmatched, reason));
    };
    let refund = RefundOrderRequest {
        request_id: request_id(client.clients.facility(), "refund", &[&reference]).to_string(),
        id: order.id.clone(),
        lines: vec![RefundLine {
            number: sold.number,
            quantity: Some(Decimal::new(-item.quantity, 0).into()),
            amount: item.total.checked_neg().ok().map(Into::into),
        }],
        amount: None,
        reason: format!("cancelled by invoice {}", invoice.number),
        reference: reference.clone(),
    };
    let answer = client
        .call(refund, |message| {
            let mut stub = client.clients.order();
            async move { stub.refund_order(message).await }
        })
        .await;
    let order = answer
        .map_err(|error| call_failure(&error))?
        .into_inner()
        .order
        .unwrap_or_default();
    match find_refund(std::slice::from_ref(&order), &reference) {
        Some((order, refund)) => {
            let refund = wait_for_refund(client, order, refund.clone()).await?;
            Ok((Outcome::Refunded, refund_amount(&refund)))
        }
        None => Err((
            Outcome::Undecided,
            "NO_REFUND: the answer does not hold the refund".to_owned(),
        )),
    }
}

/// Lists the customer's orders that contain the item, newest first.
async fn list_orders(
    client: &RetryingClient,
    customer: &str,
    code: &str,
) -> Result<Vec<Order>, (Outcome, String)> {
    let mut orders = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListOrdersRequest {
            page_size: 200,
            page_token,
            patient_id: customer.to_owned(),
            line_code: code.to_owned(),
            ..ListOrdersRequest::default()
        };
        let answer = client
            .call(request, |message| {
                let mut stub = client.clients.order();
                async move { stub.list_orders(message).await }
            })
            .await;
        let page = answer.map_err(|error| call_failure(&error))?.into_inner();
        orders.extend(page.orders);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(orders);
        }
    }
}

fn find_refund<'a>(orders: &'a [Order], reference: &str) -> Option<(&'a Order, &'a OrderRefund)> {
    let refunds = |order: &'a Order| order.refunds.iter().map(move |refund| (order, refund));
    orders
        .iter()
        .flat_map(refunds)
        .find(|(_, refund)| refund.reference == reference)
}

/// The order line to refund: of the earlier orders with enough left, one sold at the same price if there is one,
/// and of those the latest.
fn best_match<'a>(orders: &'a [Order], invoice: &Invoice, item: &Item) -> Option<(&'a Order, &'a OrderLine)> {
    let before: u64 = invoice.number.trim_start_matches('C').parse().ok()?;
    let mut best: Option<((bool, u64), &Order, &OrderLine)> = None;
    for order in orders {
        let number = order
            .reference
            .parse()
            .ok()
            .filter(|number: &u64| *number < before);
        let open = matches!(
            order.state(),
            OrderState::Fulfilled | OrderState::Settled | OrderState::BalanceDue
        );
        let Some(number) = number.filter(|_| open) else {
            continue;
        };
        for line in order.lines.iter().filter(|line| line.code == item.code) {
            let Some(refundable) = Refundable::from_line(line) else {
                continue;
            };
            let rank = (refundable.sold_at(item.price), number);
            if refundable.covers(item) && best.as_ref().is_none_or(|(best, ..)| rank > *best) {
                best = Some((rank, order, line));
            }
        }
    }
    best.map(|(_, order, line)| (order, line))
}

/// The quantity and amount of an order line that can still be refunded.
struct Refundable {
    quantity: Decimal,
    minor: i64,
    sold: Decimal,
    sold_minor: i64,
}

impl Refundable {
    fn from_line(line: &OrderLine) -> Option<Refundable> {
        let quantity = |quantity: &Option<_>| quantity.as_ref().and_then(|wire| Decimal::try_from(wire).ok());
        let minor = |amount: &Option<_>| {
            amount
                .as_ref()
                .and_then(|wire| Money::try_from(wire).ok())
                .map(Money::minor)
        };
        let (sold, sold_minor) = (quantity(&line.quantity)?, minor(&line.amount)?);
        let returned = quantity(&line.refunded_quantity).unwrap_or(Decimal::ZERO);
        Some(Refundable {
            quantity: sold.checked_sub(returned)?,
            minor: sold_minor - minor(&line.refunded_amount).unwrap_or(0),
            sold,
            sold_minor,
        })
    }

    fn covers(&self, item: &Item) -> bool {
        self.quantity >= Decimal::new(-item.quantity, 0) && self.minor >= -item.total.minor()
    }

    fn sold_at(&self, price: Money) -> bool {
        self.sold
            .scaled(0)
            .and_then(|sold| sold.checked_mul(price.minor()))
            == Some(self.sold_minor)
    }
}

/// Polls until the refund has completed or failed.
async fn wait_for_refund(
    client: &RetryingClient,
    order: &Order,
    mut refund: OrderRefund,
) -> Result<OrderRefund, (Outcome, String)> {
    let (began, mut wait) = (Instant::now(), Duration::from_millis(20));
    loop {
        match refund.state() {
            OrderRefundState::Done => return Ok(refund),
            OrderRefundState::Failed => {
                let reason = format!("REFUND_FAILED: weft saga list --order {}", order.id);
                return Err((Outcome::Refused, reason));
            }
            _ if began.elapsed() > client.retry_for => {
                let reason = format!("STILL_GOING_ON: weft saga list --order {}", order.id);
                return Err((Outcome::Undecided, reason));
            }
            _ => tokio::time::sleep(wait).await,
        }
        wait = (wait * 2).min(Duration::from_secs(1));
        let request = GetOrderRequest {
            id: order.id.clone(),
            reference: String::new(),
        };
        let answer = client
            .call(request, |message| {
                let mut stub = client.clients.order();
                async move { stub.get_order(message).await }
            })
            .await;
        let now = answer
            .map_err(|error| call_failure(&error))?
            .into_inner()
            .order
            .unwrap_or_default();
        if let Some((_, current)) = find_refund(std::slice::from_ref(&now), &refund.reference) {
            refund = current.clone();
        }
    }
}

fn refund_amount(refund: &OrderRefund) -> Money {
    let amount = refund
        .amount
        .as_ref()
        .and_then(|amount| Money::try_from(amount).ok());
    amount.unwrap_or(Money::zero(super::invoice::CURRENCY))
}

fn call_failure(error: &CallError) -> (Outcome, String) {
    let result = ImportResult::from_error(error);
    (result.outcome, result.reason)
}

#[cfg(test)]
#[path = "cancellation/tests.rs"]
mod tests;

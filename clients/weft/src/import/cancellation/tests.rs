use super::*;
use crate::import::invoice::CURRENCY;

fn sold(reference: &str, quantity: i64, minor: i64, returned: i64, returned_minor: i64) -> Order {
    let line = OrderLine {
        number: 1,
        code: "22556".into(),
        quantity: Some(Decimal::new(quantity, 0).into()),
        amount: Some(Money::new(minor, CURRENCY).into()),
        refunded_quantity: Some(Decimal::new(returned, 0).into()),
        refunded_amount: Some(Money::new(returned_minor, CURRENCY).into()),
        ..OrderLine::default()
    };
    Order {
        id: format!("order-{reference}"),
        reference: reference.into(),
        state: OrderState::Settled.into(),
        lines: vec![line],
        ..Order::default()
    }
}

fn cancelled(quantity: i64, price: i64) -> Item {
    Item {
        line: 9,
        ordinal: 1,
        code: "22556".into(),
        description: String::new(),
        quantity: -quantity,
        price: Money::new(price, CURRENCY),
        total: Money::new(-quantity * price, CURRENCY),
    }
}

fn matched(orders: &[Order], item: &Item) -> Option<String> {
    let invoice = Invoice {
        number: "C536391".into(),
        customer: "17548".into(),
        items: Vec::new(),
        faults: Vec::new(),
    };
    best_match(orders, &invoice, item).map(|(order, _)| order.reference.clone())
}

#[test]
fn the_latest_earlier_order_with_enough_left_is_chosen() {
    let orders = [
        sold("536400", 12, 1980, 0, 0),
        sold("536380", 12, 1980, 6, 990),
        sold("536300", 12, 1980, 0, 0),
        sold("536200", 12, 1980, 0, 0),
    ];
    // 536400 came later; 536380 has only six left.
    assert_eq!(matched(&orders, &cancelled(12, 165)).as_deref(), Some("536300"));
    assert_eq!(matched(&orders, &cancelled(6, 165)).as_deref(), Some("536380"));
    assert_eq!(matched(&orders, &cancelled(13, 165)), None);
}

#[test]
fn the_price_it_was_sold_at_takes_precedence_over_the_date() {
    let orders = [sold("536380", 12, 2400, 0, 0), sold("536300", 12, 1980, 0, 0)];
    assert_eq!(matched(&orders, &cancelled(6, 165)).as_deref(), Some("536300"));
    assert_eq!(matched(&orders, &cancelled(6, 200)).as_deref(), Some("536380"));
}

#[test]
fn no_more_than_the_remaining_amount_of_a_line_is_refunded() {
    let orders = [sold("536300", 12, 1980, 0, 0)];
    assert_eq!(matched(&orders, &cancelled(12, 166)), None);
}

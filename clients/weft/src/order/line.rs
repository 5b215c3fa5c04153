//! Parses order lines, refund lines and amounts from the command line.

use money::{Currency, Decimal, Money};
use proto::order::v1::{PlaceOrderLine, RefundLine};

/// Parses `CODE:QUANTITY:AMOUNT[:DESCRIPTION]`; the amount is that of the whole line.
pub(crate) fn parse_order(text: &str, currency: &str) -> Result<PlaceOrderLine, String> {
    let mut parts = text.splitn(4, ':');
    let (Some(code), Some(quantity), Some(amount)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!(
            "the line `{text}` must be CODE:QUANTITY:AMOUNT[:DESCRIPTION]"
        ));
    };
    Ok(PlaceOrderLine {
        code: code.to_owned(),
        description: parts.next().unwrap_or_default().to_owned(),
        quantity: Some(parse_quantity(quantity)?),
        amount: Some(parse_money(amount, currency)?),
    })
}

/// Parses `NUMBER:QUANTITY[:AMOUNT]`.
pub(crate) fn parse_refund(text: &str, currency: &str) -> Result<RefundLine, String> {
    let mut parts = text.splitn(3, ':');
    let number = parts.next().and_then(|number| number.parse().ok());
    let (Some(number), Some(quantity)) = (number, parts.next()) else {
        return Err(format!("the line `{text}` must be NUMBER:QUANTITY[:AMOUNT]"));
    };
    Ok(RefundLine {
        number,
        quantity: Some(parse_quantity(quantity)?),
        amount: parts
            .next()
            .map(|amount| parse_money(amount, currency))
            .transpose()?,
    })
}

/// Parses `12.50 GBP`, or `12.50` in the default `currency`.
pub(crate) fn parse_money(text: &str, currency: &str) -> Result<proto::google::r#type::Money, String> {
    let (amount, code) = text.trim().split_once(' ').unwrap_or((text.trim(), currency));
    let currency: Currency = code.parse().map_err(|error: money::Error| error.to_string())?;
    Money::parse(amount, currency)
        .map(Into::into)
        .map_err(|error| error.to_string())
}

fn parse_quantity(text: &str) -> Result<proto::google::r#type::Decimal, String> {
    text.parse::<Decimal>()
        .map(Into::into)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_code_quantity_amount_and_perhaps_a_description_with_colons() {
        let line = parse_order("85123A:6:15.30:HEART: WHITE", "GBP").unwrap();
        assert_eq!(
            (line.code.as_str(), line.description.as_str()),
            ("85123A", "HEART: WHITE")
        );
        let amount = line.amount.unwrap();
        assert_eq!(
            (amount.units, amount.nanos, amount.currency_code.as_str()),
            (15, 300_000_000, "GBP")
        );
        for wrong in ["85123A", "85123A:6", "85123A:six:1", "85123A:1:1.001"] {
            assert!(parse_order(wrong, "GBP").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refund_line_may_leave_the_amount_to_the_proportion() {
        assert_eq!(parse_refund("2:1", "GBP").unwrap().amount, None);
        assert!(parse_refund("2:1:4.50", "GBP").unwrap().amount.is_some());
        assert!(parse_refund("two:1", "GBP").is_err());
    }
}

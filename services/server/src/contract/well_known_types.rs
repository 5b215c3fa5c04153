//! Validates the types of google.protobuf and google.type that have rules of their own.

use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};
use time::{Date, Month};

/// 0001-01-01T00:00:00Z.
const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const LAST_SECOND: i64 = 253_402_300_799;
/// About 10,000 years.
const LONGEST_DURATION: i64 = 315_576_000_000;
const NANOS: i32 = 1_000_000_000;
/// Longer than any 64-bit number.
const MAX_DECIMAL: usize = 50;

/// Whether the type is checked here. Such a message is one value: violations name the field that holds it, not its
/// parts.
pub(super) fn is_one_value(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.Timestamp"
            | "google.protobuf.Duration"
            | "google.type.Money"
            | "google.type.Decimal"
            | "google.type.Date"
    )
}

/// What is wrong with a message of one of these types; `None` for other types.
pub(super) fn check(message: &DynamicMessage) -> Option<Result<(), &'static str>> {
    let fault = match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => timestamp(number(message, "seconds"), nanos(message)),
        "google.protobuf.Duration" => duration(number(message, "seconds"), nanos(message)),
        "google.type.Money" => money(message),
        "google.type.Decimal" => decimal(&text(message, "value")),
        "google.type.Date" => date(message),
        _ => return None,
    };
    Some(fault.map_or(Ok(()), Err))
}

fn timestamp(seconds: i64, nanos: i32) -> Option<&'static str> {
    if !(FIRST_SECOND..=LAST_SECOND).contains(&seconds) {
        return Some("must be a time of the years 0001 to 9999");
    }
    (!(0..NANOS).contains(&nanos)).then_some("must have nanos from 0 to 999,999,999")
}

fn duration(seconds: i64, nanos: i32) -> Option<&'static str> {
    if !(-LONGEST_DURATION..=LONGEST_DURATION).contains(&seconds) {
        return Some("must be at most 10,000 years: seconds from -315,576,000,000 to 315,576,000,000");
    }
    fraction(seconds, nanos)
}

fn money(message: &DynamicMessage) -> Option<&'static str> {
    let code = text(message, "currency_code");
    if code.len() != 3 || !code.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return Some("must have a currency_code of three letters, as in ISO 4217");
    }
    fraction(number(message, "units"), nanos(message))
}

/// `nanos` is less than one whole, and has the same sign.
fn fraction(whole: i64, nanos: i32) -> Option<&'static str> {
    if nanos <= -NANOS || nanos >= NANOS {
        return Some("must have nanos from -999,999,999 to 999,999,999");
    }
    let contradicts = (whole > 0 && nanos < 0) || (whole < 0 && nanos > 0);
    contradicts.then_some("must have nanos of the same sign as the whole part")
}

fn decimal(value: &str) -> Option<&'static str> {
    let unsigned = value.strip_prefix(['+', '-']).unwrap_or(value);
    let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.strip_prefix(['+', '-']).unwrap_or(exponent)),
        None => (unsigned, "0"),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    let is_number = all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && !exponent.is_empty()
        && all_digits(exponent);
    (value.len() > MAX_DECIMAL || !is_number).then_some("must be a decimal number of at most 50 characters")
}

/// A date, a year, a year with a month, or a month with a day; 0 means that a part is missing.
fn date(message: &DynamicMessage) -> Option<&'static str> {
    let [year, month, day] = ["year", "month", "day"].map(|part| number(message, part));
    if !(0..=9999).contains(&year) {
        return Some("must have a year from 0 to 9999");
    }
    if !(0..=12).contains(&month) {
        return Some("must have a month from 0 to 12");
    }
    // Without a year, the 29th of February is valid.
    let year = i32::try_from(if year == 0 { 2000 } else { year }).unwrap_or_default();
    let month = u8::try_from(month)
        .ok()
        .and_then(|month| Month::try_from(month).ok());
    let is_day = u8::try_from(day).is_ok_and(|day| {
        day == 0 || month.is_some_and(|month| Date::from_calendar_date(year, month, day).is_ok())
    });
    (!is_day).then_some("must have a day of its month")
}

fn nanos(message: &DynamicMessage) -> i32 {
    i32::try_from(number(message, "nanos")).unwrap_or_default()
}

fn number(message: &DynamicMessage, field: &str) -> i64 {
    match message.get_field_by_name(field).as_deref() {
        Some(Value::I64(number)) => *number,
        Some(Value::I32(number)) => i64::from(*number),
        _ => 0,
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    let text = value.as_deref().and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests::contract;

    fn fault(name: &str, parts: &[(&str, Value)]) -> Option<&'static str> {
        let mut message = DynamicMessage::new(contract().pool().get_message_by_name(name).unwrap());
        for (part, value) in parts {
            message.set_field_by_name(part, value.clone());
        }
        check(&message).unwrap().err()
    }

    #[test]
    fn times_are_of_the_years_1_to_9999_with_nanos_that_count_forward() {
        let time = |seconds, nanos| {
            fault(
                "google.protobuf.Timestamp",
                &[("seconds", Value::I64(seconds)), ("nanos", Value::I32(nanos))],
            )
        };
        for (seconds, nanos) in [(0, 0), (FIRST_SECOND, 0), (LAST_SECOND, 999_999_999)] {
            assert_eq!(time(seconds, nanos), None);
        }
        for (seconds, nanos) in [
            (FIRST_SECOND - 1, 0),
            (LAST_SECOND + 1, 0),
            (i64::MIN, 0),
            (i64::MAX, 0),
            (0, -1),
            (0, 1_000_000_000),
        ] {
            assert!(time(seconds, nanos).is_some(), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_duration_and_an_amount_have_parts_of_one_sign() {
        for (name, whole) in [
            ("google.protobuf.Duration", "seconds"),
            ("google.type.Money", "units"),
        ] {
            let of = |number, nanos| {
                let mut parts = vec![(whole, Value::I64(number)), ("nanos", Value::I32(nanos))];
                parts.extend((whole == "units").then(|| ("currency_code", Value::String("AED".to_owned()))));
                fault(name, &parts)
            };
            for (number, nanos) in [(0, 0), (1, 1), (-1, -999_999_999), (0, -1)] {
                assert_eq!(of(number, nanos), None, "{name} {number} {nanos}");
            }
            for (number, nanos) in [(1, -1), (-1, 1), (0, 1_000_000_000), (0, i32::MIN)] {
                assert!(of(number, nanos).is_some(), "{name} {number} {nanos}");
            }
        }
        let longest = |seconds| fault("google.protobuf.Duration", &[("seconds", Value::I64(seconds))]);
        assert!(longest(LONGEST_DURATION).is_none() && longest(LONGEST_DURATION + 1).is_some());
        assert!(longest(i64::MIN).is_some());
    }

    #[test]
    fn a_currency_is_three_letters_and_a_decimal_a_number() {
        for code in ["", "AE", "aed", "AED ", "A\0D", "د.إ"] {
            let code = Value::String(code.to_owned());
            assert!(fault("google.type.Money", &[("currency_code", code)]).is_some());
        }
        let decimal = |value: &str| {
            fault(
                "google.type.Decimal",
                &[("value", Value::String(value.to_owned()))],
            )
        };
        for number in ["1", "-0.50", "+3.", ".5", "5E2", "1e-3"] {
            assert_eq!(decimal(number), None, "{number}");
        }
        for text in ["", ".", "-", "NaN", "1,5", "1\0", "1e", "١", &"1".repeat(51)] {
            assert!(decimal(text).is_some(), "{text:?}");
        }
    }
}

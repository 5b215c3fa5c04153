//! Converts numbers in the formats of the public schema, `xs:float` and `xs:decimal`, to plain decimal notation
//! without floating-point arithmetic: `5E2` is `500`, `150.0000` is `150`, `+.5` is `0.5`.

/// The largest number of digits, more than any amount or quantity needs.
const MAX_DIGITS: usize = 40;

/// The number in plain decimal notation: an optional minus, digits and a fraction without trailing zeros. `None`
/// if the text is not a number.
pub(crate) fn to_plain(text: &str) -> Option<String> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
        None => (text, 0),
    };
    let (negative, unsigned) = match mantissa.strip_prefix(['-', '+']) {
        Some(rest) => (mantissa.starts_with('-'), rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let point = i32::try_from(whole.len()).ok()? + exponent;
    let (whole, fraction) = match usize::try_from(point) {
        Ok(point) if point <= digits.len() => {
            let (whole, fraction) = digits.split_at(point);
            (whole.to_owned(), fraction.to_owned())
        }
        Ok(point) => (
            format!("{digits}{}", "0".repeat(point - digits.len())),
            String::new(),
        ),
        Err(_) => (
            String::new(),
            format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize)),
        ),
    };
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && (whole != "0" || !fraction.is_empty()) {
        "-"
    } else {
        ""
    };
    Some(match fraction {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    })
}

/// An exponent of at most two digits, which bounds the length of the result.
fn parse_exponent(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 2 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.strip_prefix('+').unwrap_or(text).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_of_the_schema_become_plain_decimals() {
        for (text, expected) in [
            ("150", "150"),
            ("150.00", "150"),
            ("150.0000", "150"),
            ("149.9996", "149.9996"),
            ("007.50", "7.5"),
            ("+7.5", "7.5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-0.00", "0"),
            ("-150.05", "-150.05"),
            ("5E2", "500"),
            ("5e+2", "500"),
            ("1.5005E2", "150.05"),
            ("15005E-2", "150.05"),
            ("5E-3", "0.005"),
            ("0E9", "0"),
        ] {
            assert_eq!(to_plain(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn invalid_numbers_are_none() {
        for text in [
            "", ".", "-", "ten", "400,00", "1,000.00", "1 000", "1.2.3", "--1", "5E", "E2", "5E2.0", "5E100",
            "NaN", "INF", "0x10", "١٢",
        ] {
            assert_eq!(to_plain(text), None, "{text}");
        }
        assert_eq!(to_plain(&"9".repeat(MAX_DIGITS + 1)), None);
    }
}

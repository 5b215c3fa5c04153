//! Exact decimal numbers without floating-point arithmetic: quantities and the text format of money.

use std::{cmp::Ordering, fmt, str::FromStr};

use crate::Error;

/// The largest number of digits after the decimal point.
const MAX_SCALE: u32 = 18;

/// A decimal with at most 18 digits after the point, such as the quantity `2`, `0.5` or `-1.250`. Stored without
/// trailing zeros, so that equal numbers are equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    digits: i64,
    scale: u32,
}

impl Decimal {
    /// Zero.
    pub const ZERO: Self = Self { digits: 0, scale: 0 };

    /// `digits` × 10^-`scale`.
    pub const fn new(digits: i64, scale: u32) -> Self {
        let (mut digits, mut scale) = (digits, scale);
        while scale > 0 && digits % 10 == 0 {
            digits /= 10;
            scale -= 1;
        }
        Self { digits, scale }
    }

    /// Whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.digits < 0
    }

    /// Whether it is above zero.
    pub const fn is_positive(self) -> bool {
        self.digits > 0
    }

    /// The value × 10^`scale`; `None` if digits would be lost or the result does not fit into 64 bits.
    pub fn scaled(self, scale: u32) -> Option<i64> {
        let missing = scale.checked_sub(self.scale)?;
        self.digits.checked_mul(10_i64.checked_pow(missing)?)
    }

    /// Whether it has at most `scale` digits after the point.
    pub const fn is_exact_at(self, scale: u32) -> bool {
        self.scale <= scale
    }

    /// The sum; `None` if it does not fit into 64 bits.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        Some(Self::new(
            self.scaled(scale)?.checked_add(other.scaled(scale)?)?,
            scale,
        ))
    }

    /// The difference; `None` if it does not fit into 64 bits.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(Self::new(other.digits.checked_neg()?, other.scale))
    }

    /// `amount` × `part` ÷ `whole`, rounded down: the minor units of a part of a quantity. `None` if `whole` is
    /// zero or the result does not fit into 64 bits.
    pub fn share_of(part: Self, whole: Self, amount: i64) -> Option<i64> {
        let scale = part.scale.max(whole.scale);
        let (part, whole) = (i128::from(part.scaled(scale)?), i128::from(whole.scaled(scale)?));
        let share = part.checked_mul(i128::from(amount))?.checked_div_euclid(whole)?;
        i64::try_from(share).ok()
    }
}

impl FromStr for Decimal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let not_a_number = || Error::NotANumber(text.to_owned());
        let (sign, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all_digits = [whole, fraction]
            .iter()
            .all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        if !all_digits || (whole.is_empty() && fraction.is_empty()) {
            return Err(not_a_number());
        }
        let fraction = fraction.trim_end_matches('0');
        let scale = u32::try_from(fraction.len()).map_err(|_| Error::Overflow)?;
        if scale > MAX_SCALE {
            return Err(Error::Overflow);
        }
        let digits = whole
            .bytes()
            .chain(fraction.bytes())
            .try_fold(0_i64, |sum, byte| {
                sum.checked_mul(10)?.checked_add(i64::from(byte - b'0') * sign)
            })
            .ok_or(Error::Overflow)?;
        Ok(Self::new(digits, scale))
    }
}

impl TryFrom<&proto::google::r#type::Decimal> for Decimal {
    type Error = Error;

    fn try_from(wire: &proto::google::r#type::Decimal) -> Result<Self, Error> {
        wire.value.parse()
    }
}

impl From<Decimal> for proto::google::r#type::Decimal {
    fn from(decimal: Decimal) -> Self {
        Self {
            value: decimal.to_string(),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        let wide = |value: &Self| i128::from(value.digits) * 10_i128.pow(scale - value.scale);
        wide(self).cmp(&wide(other))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.digits < 0 { "-" } else { "" };
        let magnitude = self.digits.unsigned_abs();
        let scale = 10_u64.pow(self.scale);
        let width = self.scale as usize;
        match self.scale {
            0 => f.pad(&format!("{sign}{magnitude}")),
            _ => f.pad(&format!(
                "{sign}{}.{:0width$}",
                magnitude / scale,
                magnitude % scale
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn text_round_trips_without_trailing_zeros() {
        for (text, shown) in [
            ("2", "2"),
            ("0.50", "0.5"),
            ("-1.250", "-1.25"),
            (".5", "0.5"),
            ("+3.", "3"),
        ] {
            assert_eq!(decimal(text).to_string(), shown);
        }
    }

    #[test]
    fn invalid_numbers_are_refused() {
        for text in ["", "-", ".", "1e3", "1,5", "NaN", "1.2.3", " 1"] {
            assert_eq!(
                text.parse::<Decimal>(),
                Err(Error::NotANumber(text.to_owned())),
                "{text:?}"
            );
        }
        assert_eq!("9223372036854775808".parse::<Decimal>(), Err(Error::Overflow));
        assert_eq!("0.0000000000000000001".parse::<Decimal>(), Err(Error::Overflow));
    }

    #[test]
    fn equal_numbers_are_equal_and_ordered_by_value() {
        assert_eq!(decimal("1.50"), decimal("1.5"));
        assert!(decimal("1.5") < decimal("2") && decimal("-2") < decimal("-1.5"));
        assert_eq!(decimal("0.1").checked_add(decimal("0.2")), Some(decimal("0.3")));
        assert_eq!(decimal("1").checked_sub(decimal("0.25")), Some(decimal("0.75")));
    }

    #[test]
    fn a_share_of_an_amount_never_exceeds_it() {
        assert_eq!(Decimal::share_of(decimal("1"), decimal("3"), 100), Some(33));
        assert_eq!(Decimal::share_of(decimal("3"), decimal("3"), 100), Some(100));
        assert_eq!(Decimal::share_of(decimal("0.5"), decimal("2"), 101), Some(25));
        assert_eq!(Decimal::share_of(decimal("1"), Decimal::ZERO, 100), None);
    }
}

//! Exact amounts of money: whole minor units and a currency, never a floating-point number.
//!
//! In protobuf messages, money is `google.type.Money` (units and nanos of one sign). Here it is an `i64` of minor
//! units, so amounts reach about 92 quadrillion dollars; larger ones are an [`Error::Overflow`].

mod currency;
mod decimal;
mod split;

pub use currency::Currency;
pub use decimal::Decimal;

use std::fmt;

/// A signed amount in one currency. Callers check amounts that must not be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

/// Why a value is not a valid amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not the ISO 4217 code of a currency for payments. XAU and CLF are codes, but not of such currencies.
    #[error(
        "{0:?} is not a currency for payments; ISO 4217's metals, funds and units of account are not accepted"
    )]
    UnknownCurrency(String),
    /// More decimal digits than the currency has, so that a part of a minor unit would be lost.
    #[error("{currency} has {digits} decimal digits, the amount has more")]
    SubMinor {
        /// The currency's code.
        currency: Currency,
        /// The number of decimal digits of the currency.
        digits: u32,
    },
    /// `units` and `nanos` contradict each other, or `nanos` is a whole unit or more.
    #[error("units and nanos must have the same sign, and nanos must be below 1,000,000,000")]
    MixedSigns,
    /// More minor units than fit into 64 bits.
    #[error("the amount is too large")]
    Overflow,
    /// An operation on amounts in two currencies.
    #[error("{0} cannot be combined with {1}")]
    CurrencyMismatch(Currency, Currency),
    /// Not a decimal number.
    #[error("{0:?} is not a decimal number")]
    NotANumber(String),
}

impl Money {
    /// An amount of `minor` units (cents, fils) of `currency`.
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// The zero amount.
    pub const fn zero(currency: Currency) -> Self {
        Self::new(0, currency)
    }

    /// Parses a plain decimal such as `-12.50`. Trailing zeros after the currency's digits are accepted.
    ///
    /// # Errors
    /// [`Error::NotANumber`], [`Error::SubMinor`] or [`Error::Overflow`].
    pub fn parse(text: &str, currency: Currency) -> Result<Self, Error> {
        let decimal: Decimal = text.parse()?;
        let digits = currency.exponent();
        let error = if decimal.is_exact_at(digits) {
            Error::Overflow
        } else {
            Error::SubMinor { currency, digits }
        };
        let minor = decimal.scaled(digits).ok_or(error)?;
        Ok(Self::new(minor, currency))
    }

    /// The amount in minor units.
    pub const fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// Whether it is zero.
    pub const fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// Whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.minor < 0
    }

    /// Whether it is above zero.
    pub const fn is_positive(self) -> bool {
        self.minor > 0
    }

    /// The sum.
    ///
    /// # Errors
    /// [`Error::CurrencyMismatch`] or [`Error::Overflow`].
    pub fn checked_add(self, other: Self) -> Result<Self, Error> {
        self.combine(other, i64::checked_add)
    }

    /// The difference.
    ///
    /// # Errors
    /// [`Error::CurrencyMismatch`] or [`Error::Overflow`].
    pub fn checked_sub(self, other: Self) -> Result<Self, Error> {
        self.combine(other, i64::checked_sub)
    }

    /// The same amount with the other sign.
    ///
    /// # Errors
    /// [`Error::Overflow`] for the smallest `i64`, which has no positive counterpart.
    pub fn checked_neg(self) -> Result<Self, Error> {
        self.minor
            .checked_neg()
            .map(|minor| Self::new(minor, self.currency))
            .ok_or(Error::Overflow)
    }

    /// The sum of any number of amounts in `currency`; zero for none.
    ///
    /// # Errors
    /// [`Error::CurrencyMismatch`] or [`Error::Overflow`].
    pub fn sum(currency: Currency, amounts: impl IntoIterator<Item = Self>) -> Result<Self, Error> {
        amounts
            .into_iter()
            .try_fold(Self::zero(currency), Self::checked_add)
    }

    fn combine(self, other: Self, operation: fn(i64, i64) -> Option<i64>) -> Result<Self, Error> {
        if self.currency != other.currency {
            return Err(Error::CurrencyMismatch(self.currency, other.currency));
        }
        operation(self.minor, other.minor)
            .map(|minor| Self::new(minor, self.currency))
            .ok_or(Error::Overflow)
    }
}

/// Writes a plain decimal with all of the currency's digits: `-12.50`, `7`, `0.125`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.currency.exponent() as usize;
        let sign = if self.minor < 0 { "-" } else { "" };
        let magnitude = self.minor.unsigned_abs();
        let scale = 10_u64.pow(self.currency.exponent());
        let text = match digits {
            0 => format!("{sign}{magnitude}"),
            _ => format!("{sign}{}.{:0digits$}", magnitude / scale, magnitude % scale),
        };
        f.pad(&text)
    }
}

const NANOS_PER_UNIT: i64 = 1_000_000_000;

impl TryFrom<&proto::google::r#type::Money> for Money {
    type Error = Error;

    fn try_from(wire: &proto::google::r#type::Money) -> Result<Self, Error> {
        let currency: Currency = wire.currency_code.parse()?;
        let nanos = i64::from(wire.nanos);
        if nanos.abs() >= NANOS_PER_UNIT || (wire.units > 0 && nanos < 0) || (wire.units < 0 && nanos > 0) {
            return Err(Error::MixedSigns);
        }
        let scale = 10_i64.pow(currency.exponent());
        let nanos_per_minor = NANOS_PER_UNIT / scale;
        if nanos % nanos_per_minor != 0 {
            return Err(Error::SubMinor {
                currency,
                digits: currency.exponent(),
            });
        }
        let whole = wire.units.checked_mul(scale).ok_or(Error::Overflow)?;
        let minor = whole
            .checked_add(nanos / nanos_per_minor)
            .ok_or(Error::Overflow)?;
        Ok(Self::new(minor, currency))
    }
}

/// Encodes a sum of amounts, which may exceed the range of [`Money`], as `google.type.Money`.
///
/// # Errors
/// [`Error::Overflow`] when the whole units do not fit into 64 bits.
pub fn sum_on_wire(minor: i128, currency: Currency) -> Result<proto::google::r#type::Money, Error> {
    let scale = 10_i128.pow(currency.exponent());
    let nanos = minor % scale * (i128::from(NANOS_PER_UNIT) / scale);
    Ok(proto::google::r#type::Money {
        currency_code: currency.code().to_owned(),
        units: i64::try_from(minor / scale).map_err(|_| Error::Overflow)?,
        nanos: i32::try_from(nanos).expect("a remainder below one unit is below 10^9 nanos"),
    })
}

impl From<Money> for proto::google::r#type::Money {
    fn from(money: Money) -> Self {
        let scale = 10_i64.pow(money.currency.exponent());
        let nanos = money.minor % scale * (NANOS_PER_UNIT / scale);
        Self {
            currency_code: money.currency.code().to_owned(),
            units: money.minor / scale,
            nanos: i32::try_from(nanos).expect("a remainder below one unit is below 10^9 nanos"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::google::r#type::Money as Wire;

    fn currency(code: &str) -> Currency {
        code.parse().unwrap()
    }

    fn wire(code: &str, units: i64, nanos: i32) -> Wire {
        Wire {
            currency_code: code.to_owned(),
            units,
            nanos,
        }
    }

    #[test]
    fn amounts_round_trip_for_every_exponent_and_sign() {
        for (code, units, nanos, minor, text) in [
            ("AED", 12, 500_000_000, 1250, "12.50"),
            ("AED", -12, -500_000_000, -1250, "-12.50"),
            ("USD", 0, -10_000_000, -1, "-0.01"),
            ("JPY", 7, 0, 7, "7"),
            ("KWD", 0, 125_000_000, 125, "0.125"),
            ("BHD", 1, 1_000_000, 1001, "1.001"),
        ] {
            let money = Money::try_from(&wire(code, units, nanos)).unwrap();
            assert_eq!(money.minor(), minor);
            assert_eq!(money.to_string(), text);
            assert_eq!(Wire::from(money), wire(code, units, nanos));
            assert_eq!(Money::parse(text, currency(code)), Ok(money));
        }
    }

    #[test]
    fn a_sum_may_exceed_the_range_of_an_amount_and_is_bounded() {
        let aed = currency("AED");
        let beyond = i128::from(i64::MAX) + 1;
        assert_eq!(
            sum_on_wire(beyond, aed),
            Ok(wire("AED", 92_233_720_368_547_758, 80_000_000))
        );
        assert_eq!(
            sum_on_wire(-beyond, aed),
            Ok(wire("AED", -92_233_720_368_547_758, -80_000_000))
        );
        let most = i128::from(i64::MAX) * 100 + 99;
        assert_eq!(sum_on_wire(most, aed), Ok(wire("AED", i64::MAX, 990_000_000)));
        assert_eq!(sum_on_wire(most + 1, aed), Err(Error::Overflow));
        assert_eq!(sum_on_wire(-1_250, aed), Ok(Money::new(-1_250, aed).into()));
    }

    #[test]
    fn a_part_of_a_minor_unit_is_refused() {
        let aed = currency("AED");
        let refused = Error::SubMinor {
            currency: aed,
            digits: 2,
        };
        assert_eq!(Money::try_from(&wire("AED", 1, 5_000_000)), Err(refused.clone()));
        assert_eq!(Money::parse("1.005", aed), Err(refused));
        assert_eq!(Money::parse("1.500", aed), Ok(Money::new(150, aed)));
        assert!(Money::try_from(&wire("JPY", 1, 500_000_000)).is_err());
    }

    #[test]
    fn contradicting_signs_and_unknown_currencies_are_refused() {
        assert_eq!(Money::try_from(&wire("AED", 1, -1)), Err(Error::MixedSigns));
        assert_eq!(
            Money::try_from(&wire("AED", 0, 1_000_000_000)),
            Err(Error::MixedSigns)
        );
        assert_eq!(
            Money::try_from(&wire("XXQ", 1, 0)),
            Err(Error::UnknownCurrency("XXQ".to_owned()))
        );
        assert_eq!(
            Money::try_from(&wire("aed", 1, 0)),
            Err(Error::UnknownCurrency("aed".to_owned()))
        );
    }

    #[test]
    fn overflow_and_mixed_currencies_are_errors() {
        let (aed, usd) = (currency("AED"), currency("USD"));
        assert_eq!(
            Money::new(i64::MAX, aed).checked_add(Money::new(1, aed)),
            Err(Error::Overflow)
        );
        assert_eq!(
            Money::new(1, aed).checked_sub(Money::new(1, usd)),
            Err(Error::CurrencyMismatch(aed, usd))
        );
        assert_eq!(Money::try_from(&wire("AED", i64::MAX, 0)), Err(Error::Overflow));
        assert_eq!(Money::parse("92233720368547758.08", aed), Err(Error::Overflow));
    }
}

//! A coded item of an order.

use money::Decimal;

/// A coded item of an order; `amount` is the price of the whole line in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The position in the order, from 1.
    pub number: i32,
    pub code: String,
    pub description: String,
    /// Above zero.
    pub quantity: Decimal,
    pub amount: i64,
}

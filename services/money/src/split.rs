//! Exact splits of an amount by the largest-remainder method.

use crate::Money;

impl Money {
    /// Splits the amount in proportion to `weights`. The parts sum to the amount exactly: every part is rounded
    /// towards zero, and the remaining minor units are added, one each, to the parts with the largest remainders,
    /// the earlier ones first among equals. If all weights are zero, the parts are as even as possible.
    pub fn allocate(self, weights: &[u64]) -> Vec<Self> {
        let even = vec![1; weights.len()];
        let weights = if weights.iter().all(|weight| *weight == 0) {
            &even
        } else {
            weights
        };
        let total: i128 = weights.iter().map(|weight| i128::from(*weight)).sum();
        let share = |weight: &u64| i128::from(self.minor().unsigned_abs()) * i128::from(*weight);

        let mut parts: Vec<i128> = weights
            .iter()
            .map(|weight| share(weight) / total.max(1))
            .collect();
        let remaining = i128::from(self.minor().unsigned_abs()) - parts.iter().sum::<i128>();
        let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
        by_remainder.sort_by_key(|index| std::cmp::Reverse(share(&weights[*index]) % total.max(1)));
        for index in by_remainder
            .into_iter()
            .take(usize::try_from(remaining).unwrap_or(0))
        {
            parts[index] += 1;
        }

        let sign = i128::from(self.minor().signum());
        let part = |part: i128| i64::try_from(part * sign).expect("a part is never larger than the whole");
        parts
            .into_iter()
            .map(|minor| Self::new(part(minor), self.currency()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Currency, Money};

    fn parts(minor: i64, weights: &[u64]) -> Vec<i64> {
        Money::new(minor, Currency::AED)
            .allocate(weights)
            .iter()
            .map(|part| part.minor())
            .collect()
    }

    #[test]
    fn parts_always_sum_to_the_whole() {
        for minor in [0, 1, 99, 100, 50_000, -101, i64::MAX, i64::MIN + 1] {
            for weights in [&[1, 1, 1][..], &[150, 100, 150], &[0, 7, u64::MAX / 2], &[0, 0]] {
                assert_eq!(
                    parts(minor, weights).iter().sum::<i64>(),
                    minor,
                    "{minor} by {weights:?}"
                );
            }
        }
    }

    #[test]
    fn remaining_units_go_to_the_largest_remainders() {
        assert_eq!(parts(100, &[1, 1, 1]), [34, 33, 33]);
        assert_eq!(parts(10, &[6, 3, 2]), [5, 3, 2]);
        assert_eq!(parts(-100, &[1, 1, 1]), [-34, -33, -33]);
        assert_eq!(parts(3, &[0, 0]), [2, 1]);
        assert!(parts(5, &[]).is_empty());
    }
}

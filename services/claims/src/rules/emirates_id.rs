//! EMIRATES_ID_CHECK_DIGIT: the last digit is the Luhn check digit of the other fourteen. The contract validates
//! the format.

use proto::claims::v1::ClaimDetails;

use super::Violation;

/// Placeholders for patients without an Emirates ID: unknown, newborn, tourist and other.
const PLACEHOLDERS: [&str; 4] = [
    "000-0000-0000000-0",
    "111-1111-1111111-1",
    "222-2222-2222222-2",
    "999-9999-9999999-9",
];

pub(super) fn check(details: &ClaimDetails, found: &mut Vec<Violation>) {
    let number = details.emirates_id_number.as_str();
    if !PLACEHOLDERS.contains(&number) && !luhn(number) {
        // The message does not contain the number, because it is written to records and logs without personal
        // data.
        found.push(Violation::new(
            "EMIRATES_ID_CHECK_DIGIT",
            "emirates_id_number",
            "is not an Emirates ID: its check digit is wrong",
        ));
    }
}

/// The Luhn check: with every second digit from the right doubled and its digits added, the total is a multiple of
/// ten.
fn luhn(number: &str) -> bool {
    let digits: Vec<u32> = number.chars().filter_map(|digit| digit.to_digit(10)).collect();
    let weigh = |(place, digit): (usize, &u32)| match (place % 2, digit * 2) {
        (0, _) => *digit,
        (_, doubled) => doubled / 10 + doubled % 10,
    };
    digits.len() == 15 && digits.iter().rev().enumerate().map(weigh).sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_luhn_check_finds_a_wrong_digit_and_swapped_digits() {
        assert!(luhn("784-1984-1234567-4"));
        assert!(!luhn("784-1984-1234567-8"));
        assert!(!luhn("784-1984-1234576-4"));
        assert!(!luhn("784-1984"));
    }
}

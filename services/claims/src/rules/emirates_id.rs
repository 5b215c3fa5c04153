//! EMIRATES_ID_CHECK_DIGIT: the last digit is Luhn's over the other fourteen. Its form is the contract's to check.

use proto::claims::v1::ClaimDetails;

use super::Violation;

/// Given to patients who have none: unknown, newborn, tourist, and other.
const DUMMIES: [&str; 4] = [
    "000-0000-0000000-0",
    "111-1111-1111111-1",
    "222-2222-2222222-2",
    "999-9999-9999999-9",
];

pub(super) fn check(details: &ClaimDetails, found: &mut Vec<Violation>) {
    let number = details.emirates_id_number.as_str();
    if !DUMMIES.contains(&number) && !luhn(number) {
        // The number itself is not repeated: the text goes on to records and logs that no identity belongs in.
        found.push(Violation::new(
            "EMIRATES_ID_CHECK_DIGIT",
            "emirates_id_number",
            "is no Emirates ID: its check digit is wrong",
        ));
    }
}

/// From the right, every second digit doubled and its digits summed: the total is a multiple of ten.
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
    fn luhn_finds_one_wrong_digit_and_two_swapped_ones() {
        assert!(luhn("784-1984-1234567-4"));
        assert!(!luhn("784-1984-1234567-8"));
        assert!(!luhn("784-1984-1234576-4"));
        assert!(!luhn("784-1984"));
    }
}

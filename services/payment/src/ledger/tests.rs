use std::collections::HashMap;

use super::*;

fn aed(minor: i64) -> Money {
    Money::new(minor, Currency::AED)
}

fn origin() -> Origin {
    let id = Uuid::now_v7();
    Origin {
        order_id: id,
        payment_id: None,
        causation_id: id,
        source_id: id,
    }
}

fn balances(bookings: impl IntoIterator<Item = Booking>) -> HashMap<Account, i64> {
    let mut balances = HashMap::new();
    for transaction in bookings.into_iter().filter_map(|booking| booking.unwrap()) {
        for entry in transaction.entries() {
            *balances.entry(entry.account).or_default() += entry.amount;
        }
    }
    balances
}

#[test]
fn every_cause_moves_between_its_two_accounts_and_sums_to_zero() {
    use Account::{BadDebt, Cash, PatientReceivable, PayerCash, PayerReceivable, Revenue, Rounding};
    let amount = aed(700);
    let (none, origin) = (aed(0), origin());
    for (booking, debit, credit) in [
        (
            Transaction::order_fulfilled(origin, amount, none),
            PatientReceivable,
            Revenue,
        ),
        (
            Transaction::order_fulfilled(origin, none, amount),
            PayerReceivable,
            Revenue,
        ),
        (
            Transaction::payment_captured(origin, amount),
            Cash,
            PatientReceivable,
        ),
        (
            Transaction::remittance_paid(origin, [amount]),
            PayerCash,
            PayerReceivable,
        ),
        (
            Transaction::takeback(origin, [amount]),
            PayerReceivable,
            PayerCash,
        ),
        (
            Transaction::denial_transferred(origin, amount),
            PatientReceivable,
            PayerReceivable,
        ),
        (
            Transaction::write_off(origin, amount, none),
            BadDebt,
            PayerReceivable,
        ),
        (
            Transaction::write_off(origin, none, amount),
            BadDebt,
            PatientReceivable,
        ),
        (Transaction::refund(origin, amount), PatientReceivable, Cash),
        (
            Transaction::order_returned(origin, amount, none),
            Revenue,
            PatientReceivable,
        ),
        (
            Transaction::order_returned(origin, none, amount),
            Revenue,
            PayerReceivable,
        ),
        (
            Transaction::transfer_reversed(origin, amount),
            PayerReceivable,
            PatientReceivable,
        ),
        (
            Transaction::write_off_reversed(origin, amount, none),
            PayerReceivable,
            BadDebt,
        ),
        (
            Transaction::write_off_reversed(origin, none, amount),
            PatientReceivable,
            BadDebt,
        ),
        (Transaction::rounding(origin, amount), Rounding, PayerReceivable),
        (
            Transaction::rounding(origin, aed(-700)),
            PayerReceivable,
            Rounding,
        ),
    ] {
        assert_eq!(balances([booking]), HashMap::from([(debit, 700), (credit, -700)]));
    }
}

#[test]
fn the_eclaimlink_example_leaves_what_the_payer_still_owes() {
    let origin = origin();
    let balances = balances([
        Transaction::order_fulfilled(origin, aed(5_000), aed(34_000)),
        Transaction::payment_captured(origin, aed(5_000)),
        Transaction::remittance_paid(origin, [aed(15_000), aed(9_000)]),
        Transaction::remittance_paid(origin, [aed(10_000)]),
        Transaction::takeback(origin, [aed(15_000)]),
    ]);
    assert_eq!(balances[&Account::PayerCash], 19_000);
    assert_eq!(balances[&Account::PayerReceivable], 34_000 - 19_000);
    assert_eq!(balances[&Account::PatientReceivable], 0);
    assert_eq!(balances.values().sum::<i64>(), 0);
}

#[test]
fn a_zero_amount_is_not_booked_and_a_negative_one_is_refused() {
    assert_eq!(Transaction::payment_captured(origin(), aed(0)), Ok(None));
    assert_eq!(Transaction::remittance_paid(origin(), []), Ok(None));
    assert_eq!(
        Transaction::takeback(origin(), [aed(5), aed(-1)]),
        Err(Unbookable(aed(-1)))
    );
}

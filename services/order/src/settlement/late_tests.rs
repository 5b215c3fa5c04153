//! The payer pays after a denial was settled, and people resolve parts of the open amount.

use super::{
    tests::{activity, remittance, resolve},
    *,
};
use crate::order::tests::{changes, fulfilled, insured};

/// The payer refuses `A1` over 40,000 with this code, and pays 40,000 with the next remittance.
fn refused_and_then_paid(code: &str, between: impl FnOnce(&mut Order)) -> Order {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let refused = activity("A1", 40_000, 0, 0, code);
    order
        .apply_remittance(remittance(4, vec![refused], &["A1"]), &policy)
        .unwrap();
    between(&mut order);
    changes(&mut order);
    let paid = activity("A1", 40_000, 40_000, 0, "");
    order
        .apply_remittance(remittance(5, vec![paid], &["A1"]), &policy)
        .unwrap();
    assert_eq!((order.state, order.hold), (State::Settled, Hold::None));
    assert_eq!((order.payer_outstanding(), order.account.payer_paid), (0, 40_000));
    order
}

#[test]
fn a_payer_that_pays_what_was_written_off_reverses_the_write_off() {
    let mut order = refused_and_then_paid("PRCE-001", |_| {});
    assert_eq!(order.account.payer_written_off, 0);
    let adjustment = Adjustment {
        write_off_reversed: 40_000,
        ..Adjustment::default()
    };
    assert_eq!(
        changes(&mut order),
        [Change::Adjusted {
            adjustment,
            billed: 0
        }]
    );
}

#[test]
fn a_payer_that_pays_what_was_billed_to_the_patient_reverses_the_transfer() {
    let mut order = refused_and_then_paid("COPY-001", |_| {});
    assert_eq!((order.patient_balance(), order.patient_credit()), (0, 0));
    let adjustment = Adjustment {
        transfer_reversed: 40_000,
        ..Adjustment::default()
    };
    let settled = Change::Settled {
        written_off: 0,
        patient_written_off: 0,
    };
    assert_eq!(
        changes(&mut order),
        [
            Change::Adjusted {
                adjustment,
                billed: 0
            },
            settled
        ]
    );
}

#[test]
fn an_overpaid_balance_is_a_credit_and_is_refunded_without_a_return() {
    let mut order = refused_and_then_paid("COPY-001", |order| order.apply_balance_payment(40_000).unwrap());
    assert_eq!((order.patient_balance(), order.patient_credit()), (0, 40_000));
    changes(&mut order);
    let refund = crate::refund::plan(&order, &[], &[], &crate::refund::Scope::Amount(40_000)).unwrap();
    assert_eq!((refund.share, refund.balance), (0, 40_000));
    order.apply_refund(&refund).unwrap();
    assert_eq!((order.patient_credit(), order.account.patient_returned), (0, 0));
    assert_eq!(changes(&mut order), []);

    // The payer takes it back once more: the patient owes all of it again.
    let policy = DenialPolicy::default();
    let taken = activity("A1", 40_000, 40_000, 40_000, "COPY-001");
    order
        .apply_remittance(remittance(6, vec![taken], &["A1"]), &policy)
        .unwrap();
    assert_eq!(
        (order.state, order.patient_balance()),
        (State::BalanceDue, 40_000)
    );
    let due = Change::BalanceDue {
        transferred: 40_000,
        written_off: 0,
        balance: 40_000,
        billed: 80_000,
    };
    assert_eq!(changes(&mut order), [due]);
}

#[test]
fn the_write_off_of_a_balance_is_reversed_when_the_payer_pays() {
    let mut order = refused_and_then_paid("COPY-001", |order| {
        order.resolve(Resolution::WriteOff, 30_000).unwrap();
        assert_eq!(
            (order.state, order.patient_balance()),
            (State::BalanceDue, 10_000)
        );
    });
    assert_eq!(
        (order.account.patient_written_off, order.patient_credit()),
        (0, 0)
    );
    let adjustment = Adjustment {
        transfer_reversed: 40_000,
        patient_write_off_reversed: 30_000,
        ..Adjustment::default()
    };
    assert_eq!(
        changes(&mut order)[0],
        Change::Adjusted {
            adjustment,
            billed: 0
        }
    );
}

#[test]
fn an_amount_billed_after_a_rejection_is_reversed_when_the_payer_pays_late() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    order.apply_claim_rejection(3);
    assert_eq!(resolve(&mut order, Resolution::BillPatient), Some(40_000));
    let paid = activity("A1", 40_000, 25_000, 0, "");
    order
        .apply_remittance(remittance(5, vec![paid], &["A1"]), &policy)
        .unwrap();
    assert_eq!(
        (order.state, order.patient_balance(), order.payer_outstanding()),
        (State::BalanceDue, 15_000, 0)
    );
}

#[test]
fn a_part_is_billed_and_a_part_written_off() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let cut = activity("A1", 40_000, 5_000, 0, "WRNG-001");
    order
        .apply_remittance(remittance(4, vec![cut], &["A1"]), &policy)
        .unwrap();
    changes(&mut order);
    order.resolve(Resolution::WriteOff, 5_000).unwrap();
    assert_eq!((order.state, order.hold), (State::Fulfilled, Hold::Review));
    order.resolve(Resolution::BillPatient, 30_000).unwrap();
    assert_eq!((order.state, order.hold), (State::BalanceDue, Hold::None));
    let adjustment = Adjustment {
        written_off: 5_000,
        ..Adjustment::default()
    };
    let due = Change::BalanceDue {
        transferred: 30_000,
        written_off: 0,
        balance: 30_000,
        billed: 30_000,
    };
    assert_eq!(
        changes(&mut order),
        [
            Change::Adjusted {
                adjustment,
                billed: 0
            },
            due
        ]
    );
}

#[test]
fn every_balance_event_carries_the_total_billed() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(25_000, 10_000, 15_000));
    let first = vec![
        activity("A1", 10_000, 0, 0, "COPY-001"),
        activity("A2", 5_000, 5_000, 0, ""),
    ];
    order
        .apply_remittance(remittance(4, first, &["A1", "A2"]), &policy)
        .unwrap();
    // The patient has paid by now, but the order has not received the event yet.
    let second = vec![
        activity("A1", 10_000, 0, 0, "COPY-001"),
        activity("A2", 5_000, 5_000, 5_000, "COPY-001"),
    ];
    order
        .apply_remittance(remittance(5, second, &["A2"]), &policy)
        .unwrap();
    let billed: Vec<i64> = changes(&mut order)
        .iter()
        .filter_map(|change| match change {
            Change::BalanceDue { billed, .. } => Some(*billed),
            _ => None,
        })
        .collect();
    assert_eq!(billed, [10_000, 15_000]);
}

#[test]
fn a_voided_balance_is_requested_again_while_it_is_due() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    order.request_balance_again();
    assert_eq!(changes(&mut order), []);
    let refused = activity("A1", 40_000, 0, 0, "COPY-001");
    order
        .apply_remittance(remittance(4, vec![refused], &["A1"]), &policy)
        .unwrap();
    changes(&mut order);
    order.request_balance_again();
    let due = Change::BalanceDue {
        transferred: 0,
        written_off: 0,
        balance: 40_000,
        billed: 40_000,
    };
    assert_eq!(changes(&mut order), [due]);
}

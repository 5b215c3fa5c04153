use super::*;
use crate::order::tests::{changes, fulfilled, insured};

fn activity(id: &str, net: i64, paid: i64, taken_back: i64, denial_code: &str) -> Activity {
    Activity {
        id: id.into(),
        net,
        paid,
        taken_back,
        denial_code: denial_code.into(),
        ..Activity::default()
    }
}

fn remittance(claim_version: i64, activities: Vec<Activity>, answered: &[&str]) -> Remittance {
    Remittance {
        claim_version,
        net_paid: activities
            .iter()
            .map(|activity| activity.paid - activity.taken_back)
            .sum(),
        activities,
        answered: answered.iter().map(|id| (*id).to_owned()).collect(),
    }
}

fn first_remittance() -> Remittance {
    let activities = vec![
        activity("A1", 15_000, 15_000, 0, ""),
        activity("A2", 10_000, 0, 0, "AUTH-001"),
        activity("A3", 15_000, 9_000, 0, "PRCE-001"),
    ];
    remittance(5, activities, &["A1", "A2", "A3"])
}

#[test]
fn the_eclaimlink_story_settles_step_by_step() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));

    order.remitted(first_remittance(), &policy).unwrap();
    assert_eq!(
        (order.state, order.hold, order.account.payer_paid),
        (State::Fulfilled, Hold::Resubmission, 24_000)
    );
    assert_eq!(changes(&mut order), []);

    order.claim_resubmitted(6);
    assert_eq!((order.state, order.hold), (State::Fulfilled, Hold::None));

    let activities = vec![
        activity("A1", 15_000, 15_000, 0, ""),
        activity("A2", 10_000, 10_000, 0, ""),
        activity("A3", 15_000, 9_000, 0, "PRCE-001"),
    ];
    order
        .remitted(remittance(8, activities, &["A2", "A3"]), &policy)
        .unwrap();
    assert_eq!(
        (
            order.state,
            order.account.payer_paid,
            order.account.payer_written_off
        ),
        (State::Settled, 34_000, 6_000)
    );
    assert_eq!(
        changes(&mut order),
        [Change::Settled {
            written_off: 6_000,
            patient_written_off: 0
        }]
    );

    let activities = vec![
        activity("A1", 15_000, 15_000, 15_000, "PRCE-003"),
        activity("A2", 10_000, 10_000, 0, ""),
        activity("A3", 15_000, 9_000, 0, "PRCE-001"),
    ];
    order
        .remitted(remittance(9, activities, &["A1"]), &policy)
        .unwrap();
    assert_eq!(
        (
            order.state,
            order.account.payer_paid,
            order.account.payer_written_off
        ),
        (State::Settled, 19_000, 21_000)
    );
    assert_eq!(
        changes(&mut order),
        [Change::Settled {
            written_off: 15_000,
            patient_written_off: 0
        }]
    );
}

#[test]
fn the_same_or_an_older_claim_event_changes_nothing() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    order.remitted(first_remittance(), &policy).unwrap();
    let before = order.clone();
    order.remitted(first_remittance(), &policy).unwrap();
    order.claim_rejected(3);
    order.claim_resubmitted(5);
    assert_eq!(order, before);
}

#[test]
fn a_remittance_before_fulfilment_takes_effect_with_it() {
    let policy = DenialPolicy::default();
    let mut order = insured(50_000, 10_000, 40_000);
    order.confirm().unwrap();
    order
        .remitted(
            remittance(4, vec![activity("A1", 40_000, 40_000, 0, "")], &["A1"]),
            &policy,
        )
        .unwrap();
    assert_eq!(order.state, State::Confirmed);
    order.fulfil().unwrap();
    order.settle(&policy).unwrap();
    assert_eq!(order.state, State::Settled);
}

#[test]
fn what_the_policy_gives_to_the_patient_becomes_a_balance_and_is_settled_by_its_payment() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let activities = vec![
        activity("A1", 30_000, 30_000, 0, ""),
        activity("A2", 10_000, 2_000, 0, "COPY-002"),
    ];
    order
        .remitted(remittance(4, activities, &["A1", "A2"]), &policy)
        .unwrap();
    assert_eq!((order.state, order.patient_balance()), (State::BalanceDue, 8_000));
    assert_eq!(
        changes(&mut order),
        [Change::BalanceDue {
            transferred: 8_000,
            written_off: 0,
            balance: 8_000,
            billed: 8_000
        }]
    );
    order.balance_paid(8_000).unwrap();
    assert_eq!((order.state, order.patient_balance()), (State::Settled, 0));
    assert_eq!(
        changes(&mut order),
        [Change::Settled {
            written_off: 0,
            patient_written_off: 0
        }]
    );
}

#[test]
fn nothing_moves_while_an_activity_is_unanswered() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let activities = vec![
        activity("A1", 30_000, 0, 0, "NCOV-001"),
        activity("A2", 10_000, 0, 0, ""),
    ];
    order
        .remitted(remittance(4, activities, &["A1"]), &policy)
        .unwrap();
    assert_eq!(
        (order.state, order.hold, order.account.transferred),
        (State::Fulfilled, Hold::None, 0)
    );
}

#[test]
fn a_takeback_that_wants_a_person_opens_a_settled_order_again() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    order
        .remitted(
            remittance(4, vec![activity("A1", 40_000, 40_000, 0, "")], &["A1"]),
            &policy,
        )
        .unwrap();
    changes(&mut order);
    order
        .remitted(
            remittance(
                5,
                vec![activity("A1", 40_000, 40_000, 1_000, "WRNG-001")],
                &["A1"],
            ),
            &policy,
        )
        .unwrap();
    assert_eq!((order.state, order.hold), (State::Fulfilled, Hold::Review));
    assert_eq!(changes(&mut order), [Change::Reopened { outstanding: 1_000 }]);
    assert_eq!(resolve(&mut order, Resolution::BillPatient), Some(1_000));
    assert_eq!(
        (order.state, order.hold, order.patient_balance()),
        (State::BalanceDue, Hold::None, 1_000)
    );
    assert_eq!(resolve(&mut order, Resolution::WriteOff), Some(1_000));
    assert_eq!(order.state, State::Settled);
    assert_eq!(
        changes(&mut order),
        [
            Change::BalanceDue {
                transferred: 1_000,
                written_off: 0,
                balance: 1_000,
                billed: 1_000
            },
            Change::Settled {
                written_off: 0,
                patient_written_off: 1_000
            },
        ]
    );
}

#[test]
fn a_rejected_submission_waits_for_a_person_who_may_bill_all_of_it() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    assert_eq!(resolve(&mut order, Resolution::BillPatient), None);
    order.claim_rejected(3);
    order.settle(&policy).unwrap();
    assert_eq!((order.state, order.hold), (State::Fulfilled, Hold::Review));
    assert_eq!(resolve(&mut order, Resolution::BillPatient), Some(40_000));
    assert_eq!(order.payer_outstanding(), 0);
}

/// Resolves all that is open; `None` when nothing is.
fn resolve(order: &mut Order, resolution: Resolution) -> Option<i64> {
    let open = order.resolvable(resolution);
    if open == 0 {
        return None;
    }
    order.resolve(resolution, open).unwrap();
    Some(open)
}

#[test]
fn a_cent_of_rounding_between_claim_and_activities_is_named_and_keeps_nothing_open() {
    let policy = DenialPolicy::default();
    for (activities_net, rounding) in [(39_999, 1), (40_001, -1)] {
        let mut order = fulfilled(insured(50_000, 10_000, 40_000));
        let paid = activity("A1", activities_net, activities_net, 0, "");
        order
            .remitted(remittance(4, vec![paid], &["A1"]), &policy)
            .unwrap();
        assert_eq!(
            (
                order.state,
                order.account.rounding,
                order.account.payer_written_off
            ),
            (State::Settled, rounding, 0)
        );
        assert_eq!(order.payer_outstanding(), 0);
        let moves = Moves {
            rounding,
            ..Moves::default()
        };
        assert_eq!(changes(&mut order)[0], Change::Adjusted { moves, billed: 0 });
    }
}

/// The payer refuses `A1` over 40,000 with this code, and has paid 40,000 after all with the next remittance.
fn refused_and_then_paid(code: &str, between: impl FnOnce(&mut Order)) -> Order {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let refused = activity("A1", 40_000, 0, 0, code);
    order
        .remitted(remittance(4, vec![refused], &["A1"]), &policy)
        .unwrap();
    between(&mut order);
    changes(&mut order);
    let paid = activity("A1", 40_000, 40_000, 0, "");
    order
        .remitted(remittance(5, vec![paid], &["A1"]), &policy)
        .unwrap();
    assert_eq!((order.state, order.hold), (State::Settled, Hold::None));
    assert_eq!((order.payer_outstanding(), order.account.payer_paid), (0, 40_000));
    order
}

#[test]
fn a_payer_that_pays_what_was_written_off_reverses_the_write_off() {
    let mut order = refused_and_then_paid("PRCE-001", |_| {});
    assert_eq!(order.account.payer_written_off, 0);
    let moves = Moves {
        write_off_reversed: 40_000,
        ..Moves::default()
    };
    assert_eq!(changes(&mut order), [Change::Adjusted { moves, billed: 0 }]);
}

#[test]
fn a_payer_that_pays_what_was_billed_to_the_patient_takes_the_debt_away() {
    let mut order = refused_and_then_paid("COPY-001", |_| {});
    assert_eq!((order.patient_balance(), order.patient_credit()), (0, 0));
    let moves = Moves {
        transfer_reversed: 40_000,
        ..Moves::default()
    };
    let settled = Change::Settled {
        written_off: 0,
        patient_written_off: 0,
    };
    assert_eq!(
        changes(&mut order),
        [Change::Adjusted { moves, billed: 0 }, settled]
    );
}

#[test]
fn what_the_patient_has_paid_of_it_is_a_credit_and_is_given_back_without_a_return() {
    let mut order = refused_and_then_paid("COPY-001", |order| order.balance_paid(40_000).unwrap());
    assert_eq!((order.patient_balance(), order.patient_credit()), (0, 40_000));
    changes(&mut order);
    let refund = crate::refund::plan(&order, &[], &[], &crate::refund::Wanted::Amount(40_000)).unwrap();
    assert_eq!((refund.share, refund.balance), (0, 40_000));
    order.refunded(&refund).unwrap();
    assert_eq!((order.patient_credit(), order.account.patient_returned), (0, 0));
    assert_eq!(changes(&mut order), []);

    // The payer takes it back once more: the patient owes it again, all of it.
    let policy = DenialPolicy::default();
    let taken = activity("A1", 40_000, 40_000, 40_000, "COPY-001");
    order
        .remitted(remittance(6, vec![taken], &["A1"]), &policy)
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
fn a_written_off_balance_that_the_payer_pays_is_written_off_no_more() {
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
    let moves = Moves {
        transfer_reversed: 40_000,
        patient_write_off_reversed: 30_000,
        ..Moves::default()
    };
    assert_eq!(changes(&mut order)[0], Change::Adjusted { moves, billed: 0 });
}

#[test]
fn what_was_billed_after_a_rejection_goes_back_when_the_payer_pays_after_all() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    order.claim_rejected(3);
    assert_eq!(resolve(&mut order, Resolution::BillPatient), Some(40_000));
    let paid = activity("A1", 40_000, 25_000, 0, "");
    order
        .remitted(remittance(5, vec![paid], &["A1"]), &policy)
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
        .remitted(remittance(4, vec![cut], &["A1"]), &policy)
        .unwrap();
    changes(&mut order);
    order.resolve(Resolution::WriteOff, 5_000).unwrap();
    assert_eq!((order.state, order.hold), (State::Fulfilled, Hold::Review));
    order.resolve(Resolution::BillPatient, 30_000).unwrap();
    assert_eq!((order.state, order.hold), (State::BalanceDue, Hold::None));
    let moves = Moves {
        written_off: 5_000,
        ..Moves::default()
    };
    let due = Change::BalanceDue {
        transferred: 30_000,
        written_off: 0,
        balance: 30_000,
        billed: 30_000,
    };
    assert_eq!(changes(&mut order), [Change::Adjusted { moves, billed: 0 }, due]);
}

#[test]
fn every_event_of_a_balance_tells_what_was_billed_in_all() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(25_000, 10_000, 15_000));
    let first = vec![
        activity("A1", 10_000, 0, 0, "COPY-001"),
        activity("A2", 5_000, 5_000, 0, ""),
    ];
    order
        .remitted(remittance(4, first, &["A1", "A2"]), &policy)
        .unwrap();
    // The patient has paid by now, and the order has not heard of it.
    let second = vec![
        activity("A1", 10_000, 0, 0, "COPY-001"),
        activity("A2", 5_000, 5_000, 5_000, "COPY-001"),
    ];
    order.remitted(remittance(5, second, &["A2"]), &policy).unwrap();
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
fn a_balance_that_was_let_go_while_it_is_due_is_asked_for_again() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    order.balance_let_go();
    assert_eq!(changes(&mut order), []);
    let refused = activity("A1", 40_000, 0, 0, "COPY-001");
    order
        .remitted(remittance(4, vec![refused], &["A1"]), &policy)
        .unwrap();
    changes(&mut order);
    order.balance_let_go();
    let due = Change::BalanceDue {
        transferred: 0,
        written_off: 0,
        balance: 40_000,
        billed: 40_000,
    };
    assert_eq!(changes(&mut order), [due]);
}

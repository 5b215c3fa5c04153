use super::*;
use crate::order::{
    Activity,
    tests::{changes, fulfilled, insured},
};

pub(super) fn activity(id: &str, net: i64, paid: i64, taken_back: i64, denial_code: &str) -> Activity {
    Activity {
        id: id.into(),
        net,
        paid,
        taken_back,
        denial_code: denial_code.into(),
        ..Activity::default()
    }
}

pub(super) fn remittance(claim_version: i64, activities: Vec<Activity>, answered: &[&str]) -> Remittance {
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
fn an_eclaimlink_claim_settles_step_by_step() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));

    order.apply_remittance(first_remittance(), &policy).unwrap();
    assert_eq!(
        (order.state, order.hold, order.account.payer_paid),
        (State::Fulfilled, Hold::Resubmission, 24_000)
    );
    assert_eq!(changes(&mut order), []);

    order.apply_claim_resubmission(6);
    assert_eq!((order.state, order.hold), (State::Fulfilled, Hold::None));

    let activities = vec![
        activity("A1", 15_000, 15_000, 0, ""),
        activity("A2", 10_000, 10_000, 0, ""),
        activity("A3", 15_000, 9_000, 0, "PRCE-001"),
    ];
    order
        .apply_remittance(remittance(8, activities, &["A2", "A3"]), &policy)
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
        .apply_remittance(remittance(9, activities, &["A1"]), &policy)
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
    order.apply_remittance(first_remittance(), &policy).unwrap();
    let before = order.clone();
    order.apply_remittance(first_remittance(), &policy).unwrap();
    order.apply_claim_rejection(3);
    order.apply_claim_resubmission(5);
    assert_eq!(order, before);
}

#[test]
fn a_remittance_before_fulfilment_is_evaluated_at_fulfilment() {
    let policy = DenialPolicy::default();
    let mut order = insured(50_000, 10_000, 40_000);
    order.confirm().unwrap();
    order
        .apply_remittance(
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
fn an_amount_transferred_to_the_patient_becomes_a_balance_and_is_settled_by_its_payment() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let activities = vec![
        activity("A1", 30_000, 30_000, 0, ""),
        activity("A2", 10_000, 2_000, 0, "COPY-002"),
    ];
    order
        .apply_remittance(remittance(4, activities, &["A1", "A2"]), &policy)
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
    order.apply_balance_payment(8_000).unwrap();
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
fn nothing_is_transferred_or_written_off_while_an_activity_is_unanswered() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let activities = vec![
        activity("A1", 30_000, 0, 0, "NCOV-001"),
        activity("A2", 10_000, 0, 0, ""),
    ];
    order
        .apply_remittance(remittance(4, activities, &["A1"]), &policy)
        .unwrap();
    assert_eq!(
        (order.state, order.hold, order.account.transferred),
        (State::Fulfilled, Hold::None, 0)
    );
}

#[test]
fn a_takeback_that_needs_review_reopens_a_settled_order() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    order
        .apply_remittance(
            remittance(4, vec![activity("A1", 40_000, 40_000, 0, "")], &["A1"]),
            &policy,
        )
        .unwrap();
    changes(&mut order);
    order
        .apply_remittance(
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
fn a_rejected_submission_is_reviewed_and_may_be_billed_as_a_whole() {
    let policy = DenialPolicy::default();
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    assert_eq!(resolve(&mut order, Resolution::BillPatient), None);
    order.apply_claim_rejection(3);
    order.settle(&policy).unwrap();
    assert_eq!((order.state, order.hold), (State::Fulfilled, Hold::Review));
    assert_eq!(resolve(&mut order, Resolution::BillPatient), Some(40_000));
    assert_eq!(order.payer_outstanding(), 0);
}

/// Resolves everything that is open; `None` when nothing is.
pub(super) fn resolve(order: &mut Order, resolution: Resolution) -> Option<i64> {
    let open = order.resolvable(resolution);
    if open == 0 {
        return None;
    }
    order.resolve(resolution, open).unwrap();
    Some(open)
}

#[test]
fn a_rounding_difference_between_claim_and_activities_is_recorded_and_keeps_nothing_open() {
    let policy = DenialPolicy::default();
    for (activities_net, rounding) in [(39_999, 1), (40_001, -1)] {
        let mut order = fulfilled(insured(50_000, 10_000, 40_000));
        let paid = activity("A1", activities_net, activities_net, 0, "");
        order
            .apply_remittance(remittance(4, vec![paid], &["A1"]), &policy)
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
        let adjustment = Adjustment {
            rounding,
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
}

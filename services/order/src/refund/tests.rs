use super::*;
use crate::order::{
    Line,
    tests::{changes, fulfilled, insured},
};
use crate::{
    order::{Activity, Remittance},
    settlement::DenialPolicy,
};

fn line(number: i32, quantity: &str, amount: i64) -> Line {
    let (code, description) = ("C".to_owned(), String::new());
    Line {
        number,
        code,
        description,
        quantity: quantity.parse().unwrap(),
        amount,
    }
}

fn lines(wanted: &[(i32, &str, Option<i64>)]) -> Scope {
    let wanted = wanted.iter().map(|(number, quantity, amount)| RequestedLine {
        number: *number,
        quantity: quantity.parse().unwrap(),
        amount: *amount,
    });
    Scope::Lines(wanted.collect())
}

fn reason(refused: Result<Refund, PlanError>) -> String {
    match refused.unwrap_err() {
        PlanError::Precondition(reason, _) => reason.to_owned(),
        PlanError::Invalid(violations) => violations.to_string(),
    }
}

#[test]
fn refunds_of_thirds_of_a_line_sum_to_its_price() {
    let order = fulfilled(insured(1_000, 1_000, 0));
    let ordered = [line(1, "3", 1_000)];
    let mut earlier = Vec::new();
    for expected in [333, 333, 334] {
        let refund = plan(&order, &ordered, &earlier, &lines(&[(1, "1", None)])).unwrap();
        assert_eq!(refund.share, expected);
        earlier.push(refund);
    }
    assert_eq!(
        reason(plan(&order, &ordered, &earlier, &lines(&[(1, "1", None)]))),
        "REFUND_EXCEEDS_LINE"
    );
}

#[test]
fn pending_refunds_count_and_failed_ones_do_not() {
    let order = fulfilled(insured(1_000, 1_000, 0));
    let ordered = [line(1, "1", 1_000)];
    let mut first = plan(&order, &ordered, &[], &Scope::Amount(700)).unwrap();
    assert_eq!(
        reason(plan(&order, &ordered, &[first.clone()], &Scope::Amount(301))),
        "REFUND_EXCEEDS_ORDER"
    );
    first.state = RefundState::Failed;
    assert_eq!(
        plan(&order, &ordered, &[first], &Scope::Whole).unwrap().share,
        1_000
    );
}

#[test]
fn every_wrong_line_is_reported() {
    let order = fulfilled(insured(1_000, 1_000, 0));
    let ordered = [line(1, "1", 1_000)];
    let refused = reason(plan(
        &order,
        &ordered,
        &[],
        &lines(&[(7, "1", None), (1, "0", None), (1, "1", None)]),
    ));
    for part in ["lines[0].number", "lines[1].quantity", "lines[2].number"] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn only_a_fulfilled_order_is_refunded() {
    let mut order = insured(1_000, 1_000, 0);
    order.confirm().unwrap();
    assert_eq!(
        reason(plan(&order, &[], &[], &Scope::Whole)),
        "ORDER_NOT_FULFILLED"
    );
}

#[test]
fn the_last_part_of_a_self_pay_order_returns_it() {
    let mut order = fulfilled(insured(1_000, 1_000, 0));
    let first = plan(&order, &[], &[], &Scope::Amount(400)).unwrap();
    order.apply_refund(&first).unwrap();
    assert_eq!((order.state, order.account.refunded), (State::Settled, 400));
    let second = plan(&order, &[], &[first], &Scope::Whole).unwrap();
    order.apply_refund(&second).unwrap();
    assert_eq!((order.state, order.account.refunded), (State::Returned, 1_000));
    assert_eq!(
        changes(&mut order),
        [
            Change::Returned {
                patient_share: 400,
                payer_net: 0,
                full: false
            },
            Change::Returned {
                patient_share: 600,
                payer_net: 0,
                full: true
            },
        ]
    );
}

#[test]
fn a_full_return_of_an_insured_order_includes_the_payers_part_unless_it_was_paid() {
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let refund = plan(&order, &[], &[], &Scope::Whole).unwrap();
    order.apply_refund(&refund).unwrap();
    assert_eq!((order.state, order.payer_outstanding()), (State::Returned, 0));
    assert_eq!(
        changes(&mut order),
        [Change::Returned {
            patient_share: 10_000,
            payer_net: 40_000,
            full: true
        }]
    );

    let mut paid = fulfilled(insured(50_000, 10_000, 40_000));
    let activity = Activity {
        id: "A1".into(),
        net: 40_000,
        paid: 40_000,
        ..Activity::default()
    };
    let answered = vec!["A1".to_owned()];
    let remittance = Remittance {
        claim_version: 4,
        net_paid: 40_000,
        activities: vec![activity],
        answered,
    };
    paid.apply_remittance(remittance, &DenialPolicy::default())
        .unwrap();
    assert_eq!(reason(plan(&paid, &[], &[], &Scope::Whole)), "CLAIM_PAID");
    assert_eq!(
        plan(&paid, &[], &[], &Scope::Amount(10_000)).unwrap().share,
        10_000
    );
}

#[test]
fn refunds_before_fulfilment_are_returned_with_it() {
    let mut order = insured(1_000, 1_000, 0);
    order.confirm().unwrap();
    let outside = Refund {
        state: RefundState::Done,
        ..plan(
            &fulfilled(insured(1_000, 1_000, 0)),
            &[],
            &[],
            &Scope::Amount(300),
        )
        .unwrap()
    };
    order.apply_external_refund(&outside).unwrap();
    changes(&mut order);
    order.fulfil().unwrap();
    let returned = Change::Returned {
        patient_share: 300,
        payer_net: 0,
        full: false,
    };
    assert_eq!(changes(&mut order), [Change::Fulfilled, returned]);
}

#[test]
fn an_external_refund_of_a_returned_order_is_returned_too() {
    let mut order = fulfilled(insured(1_000, 1_000, 0));
    let mut whole = plan(&order, &[], &[], &Scope::Whole).unwrap();
    // An operator has skipped the step.
    whole.share = 0;
    order.apply_refund(&whole).unwrap();
    assert_eq!(order.state, State::Returned);
    changes(&mut order);
    whole.share = 1_000;
    order.apply_external_refund(&whole).unwrap();
    let returned = Change::Returned {
        patient_share: 1_000,
        payer_net: 0,
        full: true,
    };
    assert_eq!(changes(&mut order), [returned]);
}

/// An insured order whose payer has paid 6,000 of the 10,000 that the patient had already paid.
fn credited() -> Order {
    let mut order = fulfilled(insured(12_000, 2_000, 10_000));
    remitted(&mut order, 1, 0, 0, "COPY-001");
    order.apply_balance_payment(10_000).unwrap();
    remitted(&mut order, 2, 6_000, 0, "COPY-001");
    assert_eq!((order.state, order.patient_credit()), (State::Settled, 6_000));
    changes(&mut order);
    order
}

fn remitted(order: &mut Order, claim_version: i64, paid: i64, taken_back: i64, denial_code: &str) {
    let activity = Activity {
        id: "A1".into(),
        net: 10_000,
        paid,
        taken_back,
        denial_code: denial_code.into(),
        ..Activity::default()
    };
    let remittance = Remittance {
        claim_version,
        net_paid: paid - taken_back,
        activities: vec![activity],
        answered: vec!["A1".to_owned()],
    };
    order
        .apply_remittance(remittance, &DenialPolicy::default())
        .unwrap();
}

/// The patient's receivable by the ledger's rules; negative when the patient is owed money.
fn receivable(order: &Order) -> i64 {
    let account = &order.account;
    let billed = order.price.patient_share + account.transferred - account.patient_written_off;
    let paid = order.price.patient_share + account.balance_paid - account.refunded;
    billed - paid - account.patient_returned
}

#[test]
fn a_credit_that_the_payer_takes_back_during_its_refund_is_owed_again() {
    let mut order = credited();
    let refund = plan(&order, &[], &[], &Scope::Amount(6_000)).unwrap();
    remitted(&mut order, 3, 6_000, 6_000, "COPY-001");
    assert_eq!((order.state, order.patient_credit()), (State::Settled, 0));
    changes(&mut order);
    order.apply_refund(&refund).unwrap();
    assert_eq!(
        (order.state, order.patient_balance(), receivable(&order)),
        (State::BalanceDue, 6_000, 6_000)
    );
    let due = Change::BalanceDue {
        transferred: 0,
        written_off: 0,
        balance: 6_000,
        billed: 16_000,
    };
    assert_eq!(changes(&mut order), [due]);
}

#[test]
fn a_balance_that_grows_by_a_refunded_credit_is_published_again() {
    let mut order = credited();
    let refund = plan(&order, &[], &[], &Scope::Amount(3_000)).unwrap();
    remitted(&mut order, 3, 6_000, 6_000, "COPY-001");
    order.account.transferred += 500;
    order.price.payer_net += 500;
    order.state = State::BalanceDue;
    changes(&mut order);
    order.apply_refund(&refund).unwrap();
    let due = Change::BalanceDue {
        transferred: 0,
        written_off: 0,
        balance: 3_500,
        billed: 13_500,
    };
    assert_eq!(changes(&mut order), [due]);
}

#[test]
fn only_the_part_of_a_refund_that_was_planned_as_a_return_is_returned() {
    let mut order = credited();
    let refund = plan(&order, &[], &[], &Scope::Amount(9_000)).unwrap();
    assert_eq!(
        (refund.share, refund.balance, refund.credit),
        (2_000, 7_000, Some(6_000))
    );
    remitted(&mut order, 3, 6_000, 6_000, "COPY-001");
    order.apply_refund(&refund).unwrap();
    assert_eq!(
        (
            order.account.patient_returned,
            order.patient_balance(),
            receivable(&order)
        ),
        (3_000, 6_000, 6_000)
    );
}

#[test]
fn a_return_never_exceeds_what_is_billed_by_then() {
    let mut order = credited();
    let refund = plan(&order, &[], &[], &Scope::Amount(12_000)).unwrap();
    assert_eq!(refund.credit, Some(6_000));
    // The payer pays the rest as well.
    remitted(&mut order, 3, 10_000, 0, "");
    order.apply_refund(&refund).unwrap();
    assert_eq!(
        (
            order.account.patient_returned,
            order.patient_credit(),
            receivable(&order)
        ),
        (2_000, 0, 0)
    );
}

#[test]
fn a_credit_is_reserved_for_one_refund_only() {
    let mut order = credited();
    let first = plan(&order, &[], &[], &Scope::Amount(6_000)).unwrap();
    let second = plan(&order, &[], std::slice::from_ref(&first), &Scope::Amount(3_000)).unwrap();
    assert_eq!(
        (second.share, second.balance, second.credit),
        (2_000, 1_000, Some(0))
    );
    for refund in [second, first] {
        order.apply_refund(&refund).unwrap();
    }
    assert_eq!(
        (
            order.account.patient_returned,
            order.patient_balance(),
            receivable(&order)
        ),
        (3_000, 0, 0)
    );
}

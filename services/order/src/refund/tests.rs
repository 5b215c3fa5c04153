use super::*;
use crate::order::{
    Line,
    tests::{changes, fulfilled, insured},
};
use crate::settlement::{Activity, DenialPolicy, Remittance};

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

fn lines(wanted: &[(i32, &str, Option<i64>)]) -> Wanted {
    let wanted = wanted.iter().map(|(number, quantity, amount)| WantedLine {
        number: *number,
        quantity: quantity.parse().unwrap(),
        amount: *amount,
    });
    Wanted::Lines(wanted.collect())
}

fn reason(refused: Result<Refund, Refused>) -> String {
    match refused.unwrap_err() {
        Refused::Precondition(reason, _) => reason.to_owned(),
        Refused::Invalid(violations) => violations.to_string(),
    }
}

#[test]
fn thirds_of_a_line_give_back_exactly_its_price() {
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
    let mut first = plan(&order, &ordered, &[], &Wanted::Amount(700)).unwrap();
    assert_eq!(
        reason(plan(&order, &ordered, &[first.clone()], &Wanted::Amount(301))),
        "REFUND_EXCEEDS_ORDER"
    );
    first.state = RefundState::Failed;
    assert_eq!(
        plan(&order, &ordered, &[first], &Wanted::Whole).unwrap().share,
        1_000
    );
}

#[test]
fn every_wrong_line_is_named() {
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
        reason(plan(&order, &[], &[], &Wanted::Whole)),
        "ORDER_NOT_FULFILLED"
    );
}

#[test]
fn the_last_part_of_a_self_pay_order_returns_it() {
    let mut order = fulfilled(insured(1_000, 1_000, 0));
    let first = plan(&order, &[], &[], &Wanted::Amount(400)).unwrap();
    order.refunded(&first).unwrap();
    assert_eq!((order.state, order.account.refunded), (State::Settled, 400));
    let second = plan(&order, &[], &[first], &Wanted::Whole).unwrap();
    order.refunded(&second).unwrap();
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
fn a_full_return_of_an_insured_order_takes_the_payers_part_along_unless_it_was_paid() {
    let mut order = fulfilled(insured(50_000, 10_000, 40_000));
    let refund = plan(&order, &[], &[], &Wanted::Whole).unwrap();
    order.refunded(&refund).unwrap();
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
    paid.remitted(remittance, &DenialPolicy::default()).unwrap();
    assert_eq!(reason(plan(&paid, &[], &[], &Wanted::Whole)), "CLAIM_PAID");
    assert_eq!(
        plan(&paid, &[], &[], &Wanted::Amount(10_000)).unwrap().share,
        10_000
    );
}

#[test]
fn what_was_given_back_before_fulfilment_is_returned_as_soon_as_it_is_earned() {
    let mut order = insured(1_000, 1_000, 0);
    order.confirm().unwrap();
    let outside = Refund {
        state: RefundState::Done,
        ..plan(
            &fulfilled(insured(1_000, 1_000, 0)),
            &[],
            &[],
            &Wanted::Amount(300),
        )
        .unwrap()
    };
    order.refunded_outside(&outside).unwrap();
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
fn what_a_cashier_gives_back_of_a_returned_order_is_returned_too() {
    let mut order = fulfilled(insured(1_000, 1_000, 0));
    let mut whole = plan(&order, &[], &[], &Wanted::Whole).unwrap();
    // An operator has left the step out.
    whole.share = 0;
    order.refunded(&whole).unwrap();
    assert_eq!(order.state, State::Returned);
    changes(&mut order);
    whole.share = 1_000;
    order.refunded_outside(&whole).unwrap();
    let returned = Change::Returned {
        patient_share: 1_000,
        payer_net: 0,
        full: true,
    };
    assert_eq!(changes(&mut order), [returned]);
}

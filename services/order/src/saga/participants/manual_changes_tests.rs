use proto::payment::v1::Refund as WireRefund;
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::order::tests::insured;

fn payment(state: PaymentState, amount: i64, captured: i64, refunded: i64) -> Payment {
    let aed = |minor| Some(Money::new(minor, money::Currency::AED).into());
    Payment {
        state: state.into(),
        amount: aed(amount),
        captured: aed(captured),
        refunded: aed(refunded),
        ..Payment::default()
    }
}

fn reason(outcome: Result<Option<Outcome>, Status>) -> String {
    match outcome.unwrap().unwrap() {
        Outcome::Refused { failure, undo: false } => failure.reason,
        Outcome::Stuck { reason } => format!("stuck: {reason}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_manually_captured_share_is_accepted_and_a_partly_captured_one_is_stuck() {
    let order = insured(50_000, 10_000, 40_000);
    let outcome = |captured, refunded| captured_of(&order, captured, refunded);
    assert_eq!(outcome(10_000, 0).unwrap(), Some(done()));
    assert_eq!(outcome(10_000, 2_000).unwrap(), Some(done()));
    assert!(reason(outcome(4_000, 0)).starts_with("stuck: of the share of 100.00 only 40.00"));
    assert_eq!(reason(outcome(10_000, 10_000)), "PAYMENT_REFUNDED");
    assert_eq!(reason(outcome(4_000, 4_000)), "PAYMENT_REFUNDED");
    let authorized = payment(PaymentState::Authorized, 10_000, 0, 0);
    assert_eq!(check_captured(&order, &authorized).unwrap(), None);
}

fn captured_of(order: &Order, taken: i64, given: i64) -> Result<Option<Outcome>, Status> {
    check_captured(
        order,
        &payment(PaymentState::Captured, order.price.patient_share, taken, given),
    )
}

#[test]
fn a_captured_share_must_be_refunded_before_a_cancellation() {
    let order = insured(50_000, 10_000, 40_000);
    let outcome =
        |refunded| check_fully_refunded(&order, &payment(PaymentState::Captured, 10_000, 10_000, refunded));
    assert_eq!(outcome(10_000).unwrap(), Some(done()));
    assert!(reason(outcome(9_000)).contains("10.00 of it is kept"));
    let mut refunding = payment(PaymentState::Captured, 10_000, 10_000, 9_000);
    refunding.refunds = vec![WireRefund {
        state: RefundState::Pending.into(),
        ..WireRefund::default()
    }];
    assert!(check_fully_refunded(&order, &refunding).is_err());
}

#[test]
fn a_manual_refund_is_accepted_and_a_partial_one_is_stuck() {
    let order = insured(50_000, 10_000, 40_000);
    let refund = |id, share, state| Refund {
        id,
        reference: String::new(),
        reason: String::new(),
        share,
        balance: 0,
        credit: Some(0),
        whole: false,
        lines: Vec::new(),
        state,
        created_at: OffsetDateTime::UNIX_EPOCH,
    };
    let this = refund(Uuid::now_v7(), 6_000, refund::RefundState::Pending);
    let all = [
        this.clone(),
        refund(Uuid::now_v7(), 4_000, refund::RefundState::Done),
        refund(Uuid::now_v7(), 9_000, refund::RefundState::Failed),
    ];
    let part = Part::new(&this, &all, Step::RefundPayment);
    assert_eq!((part.wanted, part.others), (6_000, 4_000));
    let outcome = |refunded| {
        let payment = payment(PaymentState::Captured, 10_000, 10_000, refunded);
        check_refunded(&order, &payment, &part)
    };
    assert_eq!(outcome(10_000).unwrap(), Some(done()));
    assert!(reason(outcome(5_000)).contains("10.00 were given back by hand"));
    // Even if enough is left to refund the full amount, a part of it was refunded.
    let enough_left = payment(PaymentState::Captured, 20_000, 20_000, 5_000);
    let found = check_refunded(&order, &enough_left, &part);
    assert!(reason(found).contains("10.00 were given back by hand"));
    // The refusal has another reason, for example the processor's refusal.
    assert_eq!(outcome(4_000).unwrap(), None);
}

#[test]
fn a_payment_without_a_processor_outcome_is_undecided() {
    let undecided = |payment: &Payment| totals(payment).unwrap().undecided;
    for state in [PaymentState::Authorizing, PaymentState::Unknown] {
        assert!(undecided(&payment(state, 10_000, 0, 0)));
    }
    let mut authorized = payment(PaymentState::Authorized, 10_000, 0, 0);
    assert!(!undecided(&authorized));
    authorized.capture_pending = true;
    assert!(undecided(&authorized));
}

#[test]
fn a_balance_paid_in_the_meantime_is_refunded_once_the_order_has_recorded_it() {
    let mut order = insured(50_000, 10_000, 40_000);
    let paid = payment(PaymentState::Captured, 8_000, 8_000, 0);
    assert!(check_balance_paid(&order, &paid).is_err());
    order.account.balance_paid = 8_000;
    assert_eq!(
        check_balance_paid(&order, &paid).unwrap(),
        Some(Outcome::Done(Effect::BalanceToRefund(8_000)))
    );
}

use chassis::Facility;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::*;
use crate::{
    order::{Failure, State as OrderState, tests::insured},
    saga::State,
    settlement::DenialPolicy,
};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn stuck(kind: Kind, order: crate::order::Order, position: usize) -> SagaContext {
    let plan = match kind {
        Kind::CancelOrder => Kind::cancel(&order),
        Kind::FulfilOrder => Kind::fulfil(&order),
        Kind::PlaceOrder => Kind::place(&order),
        Kind::RefundOrder => vec![Step::WithdrawClaim, Step::RefundPayment],
    };
    let facility = Facility::new("F1").unwrap();
    let mut saga = Saga::begin(kind, plan, facility, order.id, NOW);
    saga.position = position;
    saga.mark_stuck("it keeps failing", NOW);
    SagaContext::new(saga, order)
}

fn intervene(
    context: &SagaContext,
    intervention: Intervention,
    payments: &OrderPayments,
) -> Result<SagaContext, InterventionError> {
    let by = OperatorNote {
        actor: "jo".into(),
        reason: "the bank has done it".into(),
    };
    let denials = DenialPolicy::default();
    let rules = Rules {
        denial_policy: &denials,
        payment_window: Duration::minutes(1),
        stuck_after: Duration::minutes(15),
        now: NOW,
    };
    let refunds: Vec<Refund> = context.refund.iter().cloned().collect();
    context.intervene(intervention, &by, (payments, &refunds), &rules)
}

fn refused(result: Result<SagaContext, InterventionError>) -> &'static str {
    match result.unwrap_err() {
        InterventionError::Refused(reason, _) => reason,
        InterventionError::WrongState(wrong) => panic!("{wrong}"),
    }
}

fn share(captured: i64, refunded: i64) -> OrderPayments {
    OrderPayments {
        share: PaymentTotals {
            captured,
            refunded,
            ..PaymentTotals::default()
        },
        balance: PaymentTotals::default(),
    }
}

fn confirmed() -> crate::order::Order {
    let mut order = insured(50_000, 10_000, 40_000);
    order.confirm().unwrap();
    order
}

fn cancelling() -> crate::order::Order {
    let mut order = confirmed();
    order.begin_cancelling(Failure::new("CANCELLED", "")).unwrap();
    order
}

fn fulfilled() -> crate::order::Order {
    let mut order = confirmed();
    order.fulfil().unwrap();
    order.busy = false;
    order
}

fn whole_refund(context: &mut SagaContext) {
    context.refund = Some(Refund {
        id: Uuid::now_v7(),
        reference: String::new(),
        reason: String::new(),
        share: 10_000,
        balance: 0,
        credit: Some(0),
        whole: true,
        lines: Vec::new(),
        state: RefundState::Pending,
        created_at: OffsetDateTime::now_utc(),
    });
}

#[test]
fn a_cancellation_without_its_void_remarks_that_the_hold_was_not_released() {
    let context = stuck(Kind::CancelOrder, cancelling(), 0);
    let next = intervene(&context, Intervention::Skip, &OrderPayments::default()).unwrap();
    assert_eq!(
        next.saga.action().map(|action| action.step),
        Some(Step::WithdrawClaim)
    );
    assert_eq!((next.saga.state, next.saga.attempts), (State::Running, 0));
    assert!(next.saga.wake_at.is_some(), "it continues at once");
    let remark = &next.order.remarks[0];
    assert_eq!(
        (remark.reason.as_str(), remark.actor.as_str()),
        ("HOLD_NOT_RELEASED", "jo")
    );
    assert!(remark.message.contains("100.00") && remark.message.ends_with("the bank has done it"));
}

#[test]
fn an_order_is_not_cancelled_while_captured_money_is_kept() {
    let context = stuck(Kind::CancelOrder, cancelling(), 0);
    for intervention in [Intervention::Skip, Intervention::ForceComplete] {
        assert_eq!(
            refused(intervene(&context, intervention, &share(10_000, 4_000))),
            "PAYMENT_CAPTURED"
        );
        assert!(intervene(&context, intervention, &share(10_000, 10_000)).is_ok());
    }
}

#[test]
fn interventions_are_refused_while_the_outcome_of_the_payment_is_unknown() {
    let undecided = PaymentTotals {
        undecided: true,
        ..PaymentTotals::default()
    };
    let (of_share, of_balance) = (
        OrderPayments {
            share: undecided,
            balance: PaymentTotals::default(),
        },
        OrderPayments {
            share: PaymentTotals::default(),
            balance: undecided,
        },
    );
    let cancellation = stuck(Kind::CancelOrder, cancelling(), 0);
    let mut undoing = stuck(Kind::PlaceOrder, insured(50_000, 10_000, 40_000), 1);
    undoing.saga.backward = true;
    let mut whole = stuck(Kind::RefundOrder, fulfilled(), 0);
    whole.saga.plan = vec![Step::VoidBalance, Step::RefundBalance];
    whole_refund(&mut whole);
    for (context, payments) in [
        (&cancellation, &of_share),
        (&undoing, &of_share),
        (&whole, &of_balance),
    ] {
        for intervention in [Intervention::Skip, Intervention::ForceComplete] {
            assert_eq!(
                refused(intervene(context, intervention, payments)),
                "PAYMENT_PENDING"
            );
        }
    }
}

#[test]
fn a_forced_saga_ends_in_its_direction() {
    let context = stuck(Kind::CancelOrder, cancelling(), 0);
    let next = intervene(&context, Intervention::ForceComplete, &OrderPayments::default()).unwrap();
    assert_eq!(
        (next.saga.state, next.order.state),
        (State::Completed, OrderState::Cancelled)
    );
    assert!(!next.order.busy);
    assert!(
        next.order.remarks[0]
            .message
            .contains("void_payment, withdraw_claim")
    );

    let mut undoing = stuck(Kind::PlaceOrder, insured(50_000, 10_000, 40_000), 1);
    undoing.saga.backward = true;
    let next = intervene(&undoing, Intervention::ForceComplete, &OrderPayments::default()).unwrap();
    assert_eq!(
        (next.saga.state, next.order.state),
        (State::Compensated, OrderState::Rejected)
    );
}

#[test]
fn an_order_is_fulfilled_only_with_its_share() {
    let context = stuck(Kind::FulfilOrder, confirmed(), 0);
    assert_eq!(
        refused(intervene(&context, Intervention::Skip, &share(10_000, 0))),
        "STEP_NEEDED"
    );
    assert_eq!(
        refused(intervene(&context, Intervention::ForceComplete, &share(9_999, 0))),
        "NOT_CAPTURED"
    );
    assert_eq!(
        refused(intervene(
            &context,
            Intervention::ForceComplete,
            &share(10_000, 10_000)
        )),
        "PAYMENT_REFUNDED"
    );
    let next = intervene(&context, Intervention::ForceComplete, &share(10_000, 0)).unwrap();
    assert_eq!(
        (next.order.state, next.order.hold),
        (OrderState::Fulfilled, Hold::None)
    );
}

#[test]
fn a_claim_that_was_not_submitted_is_reviewed() {
    let context = stuck(Kind::FulfilOrder, confirmed(), 1);
    assert!(!context.saga.moves_money());
    let next = intervene(&context, Intervention::Skip, &OrderPayments::default()).unwrap();
    assert_eq!(
        (next.order.state, next.order.hold),
        (OrderState::Fulfilled, Hold::Review)
    );
    assert_eq!(next.order.remarks[0].reason, "CLAIM_NOT_SUBMITTED");
}

#[test]
fn an_order_is_not_confirmed_by_an_intervention() {
    let context = stuck(Kind::PlaceOrder, insured(50_000, 10_000, 40_000), 1);
    for intervention in [Intervention::Skip, Intervention::ForceComplete] {
        assert_eq!(
            refused(intervene(&context, intervention, &share(0, 0))),
            "STEP_NEEDED"
        );
    }
}

#[test]
fn a_return_counts_only_what_was_refunded() {
    let mut context = stuck(Kind::RefundOrder, fulfilled(), 1);
    whole_refund(&mut context);
    assert_eq!(
        refused(intervene(
            &context,
            Intervention::ForceComplete,
            &share(10_000, 0)
        )),
        "NOT_GIVEN_BACK"
    );
    assert_eq!(
        refused(intervene(&context, Intervention::Skip, &share(10_000, 10_000))),
        "GIVEN_BACK"
    );

    let skipped = intervene(&context, Intervention::Skip, &share(10_000, 0)).unwrap();
    assert_eq!(
        (skipped.order.state, skipped.order.account.refunded),
        (OrderState::Returned, 0)
    );
    assert_eq!(skipped.order.payer_outstanding(), 0);
    assert_eq!(skipped.order.remarks[0].reason, "NOT_GIVEN_BACK");

    let forced = intervene(&context, Intervention::ForceComplete, &share(10_000, 10_000)).unwrap();
    assert_eq!(
        (forced.order.state, forced.order.account.refunded),
        (OrderState::Returned, 10_000)
    );

    context.saga.position = 0;
    assert_eq!(
        refused(intervene(&context, Intervention::Skip, &share(10_000, 0))),
        "STEP_NEEDED"
    );
}

#[test]
fn a_refund_whose_steps_were_all_skipped_has_failed() {
    let mut context = stuck(Kind::RefundOrder, fulfilled(), 1);
    whole_refund(&mut context);
    context.refund.as_mut().unwrap().whole = false;
    let next = intervene(&context, Intervention::Skip, &share(10_000, 0)).unwrap();
    assert_eq!(next.refund.unwrap().state, RefundState::Failed);
    assert_eq!(
        (next.order.state, next.order.account.refunded),
        (OrderState::Fulfilled, 0)
    );
}

use super::*;
use crate::order::tests::insured;

fn payment(state: PaymentState, decline_reason: &str) -> Payment {
    let id = Uuid::nil().to_string();
    Payment {
        id,
        state: state.into(),
        decline_reason: decline_reason.into(),
        ..Payment::default()
    }
}

fn reason(outcome: Result<Outcome, Status>) -> (String, bool) {
    match outcome.unwrap() {
        Outcome::Refused { failure, undo } => (failure.reason, undo),
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn an_unknown_outcome_is_waited_for() {
    let order = insured(1_000, 1_000, 0);
    for state in [PaymentState::Unknown, PaymentState::Authorizing] {
        let outcome = authorization(&order, &payment(state, "")).unwrap();
        assert_eq!(outcome, Outcome::Wait(Wait::PaymentOutcome(Uuid::nil())));
    }
}

#[test]
fn a_decline_ends_an_order_that_named_its_method_and_not_one_that_waits_for_one() {
    let mut order = insured(1_000, 1_000, 0);
    let declined = payment(PaymentState::Declined, "INSUFFICIENT_FUNDS");
    assert_eq!(
        reason(authorization(&order, &declined)),
        ("INSUFFICIENT_FUNDS".into(), true)
    );

    order.payment_method.clear();
    order
        .await_payment(Uuid::nil(), time::Duration::seconds(60))
        .unwrap();
    let waiting = authorization(&order, &declined).unwrap();
    assert_eq!(waiting, Outcome::Wait(Wait::PaymentMethod(Uuid::nil())));

    order.expires_at = Some(OffsetDateTime::now_utc() - time::Duration::seconds(1));
    assert_eq!(
        reason(authorization(&order, &declined)),
        ("PAYMENT_WINDOW_PASSED".into(), true)
    );
    // Money that is on its way when the window closes is not given up on.
    let outcome = authorization(&order, &payment(PaymentState::Unknown, "")).unwrap();
    assert_eq!(outcome, Outcome::Wait(Wait::PaymentOutcome(Uuid::nil())));
}

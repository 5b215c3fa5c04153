use super::*;
use crate::order::tests::insured;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

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
fn an_unknown_outcome_is_awaited() {
    let order = insured(1_000, 1_000, 0);
    for state in [PaymentState::Unknown, PaymentState::Authorizing] {
        let outcome = authorization_outcome(&order, &payment(state, ""), NOW).unwrap();
        assert_eq!(outcome, Outcome::Wait(Wait::PaymentOutcome(Uuid::nil())));
    }
}

#[test]
fn a_decline_ends_an_order_that_named_its_method_and_not_one_that_waits_for_one() {
    let mut order = insured(1_000, 1_000, 0);
    let declined = payment(PaymentState::Declined, "INSUFFICIENT_FUNDS");
    assert_eq!(
        reason(authorization_outcome(&order, &declined, NOW)),
        ("INSUFFICIENT_FUNDS".into(), true)
    );

    order.payment_method.clear();
    order
        .await_payment(Uuid::nil(), NOW + time::Duration::seconds(60))
        .unwrap();
    let waiting = authorization_outcome(&order, &declined, NOW).unwrap();
    assert_eq!(waiting, Outcome::Wait(Wait::PaymentMethod(Uuid::nil())));

    order.expires_at = Some(NOW);
    assert_eq!(
        reason(authorization_outcome(&order, &declined, NOW)),
        ("PAYMENT_WINDOW_PASSED".into(), true)
    );
    // A payment with an unknown outcome is awaited even after the window has closed.
    let outcome = authorization_outcome(&order, &payment(PaymentState::Unknown, ""), NOW).unwrap();
    assert_eq!(outcome, Outcome::Wait(Wait::PaymentOutcome(Uuid::nil())));
}

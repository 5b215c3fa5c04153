use money::Currency;
use uuid::Uuid;

use super::*;
use crate::payment::State as PaymentState;

fn aed(minor: i64) -> Money {
    Money::new(minor, Currency::AED)
}

fn payment(purpose: Purpose, state: PaymentState) -> Payment {
    Payment {
        state,
        method: "tok_visa".to_owned(),
        ..Payment::new(Uuid::now_v7(), purpose, aed(1_000))
    }
}

fn authorization(payment: &Payment) -> Operation {
    Operation::authorize(Uuid::now_v7(), payment, aed(1_000), Uuid::now_v7())
}

fn on_authorization(kind: Kind, payment: &Payment, authorization: Uuid, minor: i64) -> Operation {
    Operation::on_authorization(Uuid::now_v7(), kind, payment.id, authorization, aed(minor))
}

fn approved() -> Outcome {
    Outcome::Approved {
        reference: "ref".to_owned(),
    }
}

fn refused() -> Outcome {
    Outcome::Refused {
        reason: "CARD_DECLINED".to_owned(),
    }
}

fn applied(payment: Payment, operation: &Operation, outcome: &Outcome, charges: &[Charge]) -> AppliedOutcome {
    let facility = Facility::new("F1").unwrap();
    let context = OutcomeContext {
        facility: &facility,
        operation,
        outcome,
        now: OffsetDateTime::UNIX_EPOCH,
        lifetime: time::Duration::days(7),
        lease: Duration::from_secs(5),
        charges,
    };
    apply(payment, context).unwrap()
}

fn event_names(applied: &AppliedOutcome) -> Vec<&str> {
    let events = applied.changes.events.iter();
    events
        .map(|event| event.type_name.trim_start_matches("payment.v1.Payment"))
        .collect()
}

#[test]
fn an_approved_authorization_holds_from_the_transactions_own_time() {
    let payment = payment(Purpose::Share, PaymentState::Authorizing);
    let operation = authorization(&payment);
    let applied = applied(payment, &operation, &approved(), &[]);
    let payment = &applied.changes.payment;
    assert_eq!(
        (payment.state, payment.authorized),
        (PaymentState::Authorized, 1_000)
    );
    assert_eq!(
        payment.expires_at,
        Some(OffsetDateTime::UNIX_EPOCH + time::Duration::days(7))
    );
    assert_eq!(payment.updated_at, OffsetDateTime::UNIX_EPOCH);
    assert_eq!(applied.operation.state, State::Succeeded);
    assert_eq!(event_names(&applied), ["Authorized"]);
    assert!(applied.changes.opened.is_none());
}

#[test]
fn a_capture_follows_an_authorization_with_then_capture() {
    let payment = payment(Purpose::Balance, PaymentState::Authorizing);
    let operation = Operation {
        then_capture: true,
        ..authorization(&payment)
    };
    let applied = applied(payment, &operation, &approved(), &[]);
    let next = applied.changes.opened.unwrap();
    assert_eq!(
        (next.operation.kind, next.lease),
        (Kind::Capture, Duration::from_secs(5))
    );
    assert_eq!(next.operation.root_id, operation.id);
    assert!(next.key.is_none());
}

#[test]
fn a_capture_that_was_requested_at_once_is_written_with_its_authorization() {
    let payment = payment(Purpose::Share, PaymentState::Authorizing);
    let operation = Operation {
        then_capture: true,
        ..authorization(&payment)
    };
    let facility = Facility::new("F1").unwrap();
    let applied = applied(payment, &operation, &approved(), &[]);
    let context = OutcomeContext {
        facility: &facility,
        operation: &operation,
        outcome: &approved(),
        now: OffsetDateTime::UNIX_EPOCH,
        lifetime: time::Duration::days(7),
        lease: Duration::from_secs(5),
        charges: &[],
    };
    let applied = apply_next(applied, context).unwrap();
    assert!(applied.changes.opened.is_none());
    assert_eq!(event_names(&applied), ["Authorized", "Captured"]);
    let versions: Vec<_> = applied
        .changes
        .events
        .iter()
        .map(|event| event.meta.version)
        .collect();
    assert_eq!(versions, [2, 3]);
    // The authorization is updated once: it has ended, and all of it was captured.
    let [update] = &applied.changes.operations[..] else {
        panic!("{:?}", applied.changes.operations);
    };
    assert_eq!(
        (update.id, update.state, update.captured),
        (operation.id, Some(State::Succeeded), 1_000)
    );
    assert_eq!(applied.operation.id, operation.next(Kind::Capture).id);
    assert_eq!(applied.operation.state, State::Succeeded);
}

#[test]
fn a_refused_capture_declines_a_balance_and_leaves_a_share_to_its_saga() {
    for (purpose, state, events) in [
        (Purpose::Share, PaymentState::Authorized, vec![]),
        (Purpose::Balance, PaymentState::Declined, vec!["Declined"]),
    ] {
        let payment = Payment {
            authorized: 1_000,
            ..payment(purpose, PaymentState::Authorized)
        };
        let operation = on_authorization(Kind::Capture, &payment, Uuid::now_v7(), 1_000);
        let applied = applied(payment, &operation, &refused(), &[]);
        assert_eq!(applied.changes.payment.state, state);
        assert_eq!(event_names(&applied), events);
        assert_eq!(applied.changes.opened.is_some(), purpose == Purpose::Balance);
    }
}

#[test]
fn a_refused_void_reopens_the_authorization_that_it_had_abandoned() {
    let payment = payment(Purpose::Share, PaymentState::Unknown);
    let authorization = Uuid::now_v7();
    let operation = on_authorization(Kind::Void, &payment, authorization, 1_000);
    let applied = applied(payment, &operation, &refused(), &[]);
    let reopened: Vec<_> = applied
        .changes
        .operations
        .iter()
        .filter(|update| update.leaves_open())
        .collect();
    assert_eq!(reopened.len(), 1);
    assert_eq!(
        (reopened[0].id, reopened[0].state),
        (authorization, Some(State::Unknown))
    );
    assert_eq!(applied.changes.payment.state, PaymentState::Unknown);
}

#[test]
fn a_refund_goes_on_with_the_charge_that_has_most_left_after_it() {
    let payment = Payment {
        authorized: 1_000,
        captured: 1_000,
        ..payment(Purpose::Share, PaymentState::Captured)
    };
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let charge = |authorization_id, left| Charge {
        authorization_id,
        left,
    };
    for (charges, next, part) in [
        ([charge(first, 600), charge(second, 400)], second, 300),
        ([charge(first, 900), charge(second, 100)], first, 300),
        ([charge(first, 800), charge(second, 250)], second, 250),
    ] {
        let operation = Operation {
            remaining: 300,
            reason: "returned".to_owned(),
            ..on_authorization(Kind::Refund, &payment, first, 600)
        };
        let applied = applied(payment.clone(), &operation, &approved(), &charges);
        let opened = applied.changes.opened.unwrap().operation;
        assert_eq!(opened.authorization_id, next, "{charges:?}");
        assert_eq!((opened.amount, opened.remaining), (aed(part), 300 - part));
        assert_eq!(applied.changes.payment.refunded, 600);
    }
}

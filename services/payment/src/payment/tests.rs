use super::*;

fn aed(minor: i64) -> Money {
    Money::new(minor, Currency::AED)
}

fn later() -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(7)
}

/// A payment over 100.00 in any state, as it would be found there.
fn in_state(state: State, purpose: Purpose) -> Payment {
    let mut payment = Payment::new(Uuid::now_v7(), purpose, aed(10_000));
    let authorize = |payment: &mut Payment| {
        payment.authorizing("tok_visa", None).unwrap();
        payment.authorized(10_000, "ref", later()).unwrap();
    };
    match state {
        State::Created => {}
        State::Authorizing => drop(payment.authorizing("tok_visa", None).unwrap()),
        State::Authorized => authorize(&mut payment),
        State::Captured => {
            authorize(&mut payment);
            payment.captured(10_000).unwrap();
        }
        State::Declined => {
            payment.authorizing("tok_decline", None).unwrap();
            payment.declined("CARD_DECLINED").unwrap();
        }
        State::Voided => payment.voided().unwrap(),
        State::Expired => {
            authorize(&mut payment);
            payment.expired().unwrap();
        }
        State::Unknown => {
            payment.authorizing("tok_visa", None).unwrap();
            payment.outcome_unknown().unwrap();
        }
    }
    assert_eq!(payment.state, state);
    payment
}

#[test]
fn every_pair_of_states_is_a_transition_or_refused_without_a_trace() {
    type Step = fn(&mut Payment) -> Result<(), Refusal>;
    let steps: [(State, Step); 7] = [
        (State::Authorizing, |p| p.authorizing("tok_visa", None).map(drop)),
        (State::Authorized, |p| p.authorized(10_000, "ref", later())),
        (State::Captured, |p| p.captured(10_000)),
        (State::Declined, |p| p.declined("CARD_DECLINED")),
        (State::Voided, Payment::voided),
        (State::Expired, Payment::expired),
        (State::Unknown, Payment::outcome_unknown),
    ];
    for from in State::ALL {
        for (to, step) in steps {
            let mut payment = in_state(from, Purpose::Share);
            let before = payment.clone();
            let allowed = from.may_become(to) && (from, to) != (State::Authorized, State::Declined);
            let outcome = step(&mut payment);
            assert_eq!(outcome.is_ok(), allowed, "{from} -> {to}: {outcome:?}");
            if allowed {
                assert_eq!((payment.state, payment.version), (to, before.version + 1));
            } else {
                assert_eq!(payment, before, "{from} -> {to} left a trace");
            }
        }
    }
}

#[test]
fn amounts_stay_within_one_another_whatever_is_asked() {
    for state in State::ALL {
        for amount in [1, 9_999, 10_000, 10_001, i64::MAX] {
            let mut payment = in_state(state, Purpose::Share);
            if payment.capturable(Some(aed(amount))).is_ok() {
                payment.captured(amount).unwrap();
            }
            if payment.refundable_amount(Some(aed(amount))).is_ok() {
                payment.refunded(amount).unwrap();
            }
            assert!(payment.captured <= payment.authorized, "{state} {amount}");
            assert!(payment.refunded <= payment.captured, "{state} {amount}");
        }
    }
}

#[test]
fn a_decline_may_be_followed_by_another_method() {
    let mut payment = in_state(State::Declined, Purpose::Share);
    assert_eq!(
        payment.authorizing("tok_visa", Some(aed(10_000))),
        Ok(aed(10_000))
    );
    assert_eq!(
        (payment.method.as_str(), payment.decline_reason.as_str()),
        ("tok_visa", "")
    );
}

#[test]
fn an_authorization_over_another_amount_or_currency_is_refused() {
    let mut payment = in_state(State::Created, Purpose::Share);
    for given in [aed(9_999), Money::new(10_000, Currency::GBP)] {
        assert_eq!(
            payment.authorizing("tok_visa", Some(given)),
            Err(Refusal::Amount {
                expected: aed(10_000),
                given
            })
        );
    }
}

#[test]
fn a_part_may_be_captured_and_the_rest_is_released() {
    let mut payment = in_state(State::Authorized, Purpose::Share);
    assert!(payment.capturable(Some(aed(10_001))).is_err());
    assert_eq!(payment.capturable(None), Ok(aed(10_000)));
    payment.captured(4_000).unwrap();
    assert_eq!((payment.state, payment.captured), (State::Captured, 4_000));
    assert_eq!(payment.capturable(None), Err(Refusal::State(State::Captured)));
}

#[test]
fn refunds_add_up_to_what_was_captured_and_no_further() {
    let mut payment = in_state(State::Captured, Purpose::Share);
    for amount in [3_000, 3_000, 4_000] {
        assert_eq!(payment.refundable_amount(Some(aed(amount))), Ok(aed(amount)));
        payment.refunded(amount).unwrap();
    }
    let left = aed(0);
    assert_eq!(
        payment.refundable_amount(Some(aed(1))),
        Err(Refusal::BeyondCaptured { asked: aed(1), left })
    );
    assert_eq!(
        payment.refundable_amount(None),
        Err(Refusal::BeyondCaptured { asked: left, left })
    );
    assert!(payment.refunded(1).is_err());
}

#[test]
fn a_tombstone_refuses_the_late_payment() {
    let mut payment = Payment::tombstone(Uuid::now_v7(), Purpose::Share);
    assert_eq!(
        payment.authorizing("tok_visa", Some(aed(1))),
        Err(Refusal::State(State::Voided))
    );
    assert_eq!(payment.money(payment.amount), None);
}

#[test]
fn a_raised_balance_waits_for_a_method_again_and_keeps_what_was_captured() {
    for state in State::ALL {
        let mut payment = in_state(state, Purpose::Balance);
        let under_way = matches!(state, State::Authorizing | State::Unknown | State::Authorized);
        payment.owes(aed(2_500)).unwrap();
        assert_eq!(
            payment.state,
            if under_way { state } else { State::Created },
            "{state}"
        );
        assert_eq!(payment.due(), 2_500, "{state}");
    }
}

#[test]
fn a_balance_raised_during_its_capture_leaves_the_rest_open() {
    let mut payment = in_state(State::Authorized, Purpose::Balance);
    payment.owes(aed(15_000)).unwrap();
    payment.captured(10_000).unwrap();
    assert_eq!((payment.state, payment.due()), (State::Created, 5_000));
    assert_eq!(payment.authorizing("tok_visa", None), Ok(aed(5_000)));
    payment.authorized(5_000, "second", later()).unwrap();
    assert_eq!(payment.authorized, 15_000);
    payment.captured(5_000).unwrap();
    assert_eq!((payment.state, payment.captured), (State::Captured, 15_000));
}

#[test]
fn what_is_due_is_what_was_billed_less_what_was_captured_whoever_knew_of_it() {
    let mut payment = in_state(State::Created, Purpose::Balance);
    payment.bills(aed(10_000)).unwrap();
    payment.authorizing("tok_visa", None).unwrap();
    payment.authorized(10_000, "first", later()).unwrap();
    payment.captured(10_000).unwrap();
    // Told by an order that has not heard of the capture.
    payment.bills(aed(15_000)).unwrap();
    assert_eq!((payment.state, payment.due()), (State::Created, 5_000));
    // The payer has paid after all: nothing is due, and what was captured stays.
    payment.bills(aed(4_000)).unwrap();
    assert_eq!((payment.state, payment.due()), (State::Captured, 0));
}

use super::*;

fn aed(minor: i64) -> Money {
    Money::new(minor, Currency::AED)
}

fn later() -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(7)
}

/// A payment over 100.00 that has reached the state by valid transitions.
fn in_state(state: State, purpose: Purpose) -> Payment {
    let mut payment = Payment::new(Uuid::now_v7(), purpose, aed(10_000));
    let authorize = |payment: &mut Payment| {
        payment.begin_authorization("tok_visa", None).unwrap();
        payment.authorize(10_000, "ref", later()).unwrap();
    };
    match state {
        State::Created => {}
        State::Authorizing => drop(payment.begin_authorization("tok_visa", None).unwrap()),
        State::Authorized => authorize(&mut payment),
        State::Captured => {
            authorize(&mut payment);
            payment.capture(10_000).unwrap();
        }
        State::Declined => {
            payment.begin_authorization("tok_decline", None).unwrap();
            payment.decline("CARD_DECLINED").unwrap();
        }
        State::Voided => payment.void().unwrap(),
        State::Expired => {
            authorize(&mut payment);
            payment.expire().unwrap();
        }
        State::Unknown => {
            payment.begin_authorization("tok_visa", None).unwrap();
            payment.mark_outcome_unknown().unwrap();
        }
    }
    assert_eq!(payment.state, state);
    payment
}

#[test]
fn every_pair_of_states_is_a_transition_or_refused_without_a_change() {
    type Step = fn(&mut Payment) -> Result<(), Refusal>;
    let steps: [(State, Step); 7] = [
        (State::Authorizing, |p| {
            p.begin_authorization("tok_visa", None).map(drop)
        }),
        (State::Authorized, |p| p.authorize(10_000, "ref", later())),
        (State::Captured, |p| p.capture(10_000)),
        (State::Declined, |p| p.decline("CARD_DECLINED")),
        (State::Voided, Payment::void),
        (State::Expired, Payment::expire),
        (State::Unknown, Payment::mark_outcome_unknown),
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
            if payment.amount_to_capture(Some(aed(amount))).is_ok() {
                payment.capture(amount).unwrap();
            }
            if payment.amount_to_refund(Some(aed(amount))).is_ok() {
                payment.refund(amount).unwrap();
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
        payment.begin_authorization("tok_visa", Some(aed(10_000))),
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
            payment.begin_authorization("tok_visa", Some(given)),
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
    assert!(payment.amount_to_capture(Some(aed(10_001))).is_err());
    assert_eq!(payment.amount_to_capture(None), Ok(aed(10_000)));
    payment.capture(4_000).unwrap();
    assert_eq!((payment.state, payment.captured), (State::Captured, 4_000));
    assert_eq!(
        payment.amount_to_capture(None),
        Err(Refusal::State(State::Captured))
    );
}

#[test]
fn refunds_add_up_to_what_was_captured_and_no_further() {
    let mut payment = in_state(State::Captured, Purpose::Share);
    for amount in [3_000, 3_000, 4_000] {
        assert_eq!(payment.amount_to_refund(Some(aed(amount))), Ok(aed(amount)));
        payment.refund(amount).unwrap();
    }
    let left = aed(0);
    assert_eq!(
        payment.amount_to_refund(Some(aed(1))),
        Err(Refusal::BeyondCaptured {
            requested: aed(1),
            left
        })
    );
    assert_eq!(
        payment.amount_to_refund(None),
        Err(Refusal::BeyondCaptured {
            requested: left,
            left
        })
    );
    assert!(payment.refund(1).is_err());
}

#[test]
fn a_tombstone_refuses_the_late_payment() {
    let mut payment = Payment::tombstone(Uuid::now_v7(), Purpose::Share);
    assert_eq!(
        payment.begin_authorization("tok_visa", Some(aed(1))),
        Err(Refusal::State(State::Voided))
    );
    assert_eq!(payment.money(payment.amount), None);
}

#[test]
fn a_raised_balance_waits_for_a_method_again_and_keeps_what_was_captured() {
    for state in State::ALL {
        let mut payment = in_state(state, Purpose::Balance);
        let under_way = matches!(state, State::Authorizing | State::Unknown | State::Authorized);
        payment.set_due(aed(2_500)).unwrap();
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
    payment.set_due(aed(15_000)).unwrap();
    payment.capture(10_000).unwrap();
    assert_eq!((payment.state, payment.due()), (State::Created, 5_000));
    assert_eq!(payment.begin_authorization("tok_visa", None), Ok(aed(5_000)));
    payment.authorize(5_000, "second", later()).unwrap();
    assert_eq!(payment.authorized, 15_000);
    payment.capture(5_000).unwrap();
    assert_eq!((payment.state, payment.captured), (State::Captured, 15_000));
}

#[test]
fn the_amount_due_is_billed_less_captured_even_if_the_order_does_not_know_of_the_capture() {
    let mut payment = in_state(State::Created, Purpose::Balance);
    payment.set_billed(aed(10_000)).unwrap();
    payment.begin_authorization("tok_visa", None).unwrap();
    payment.authorize(10_000, "first", later()).unwrap();
    payment.capture(10_000).unwrap();
    // Billed by an order that does not know of the capture yet.
    payment.set_billed(aed(15_000)).unwrap();
    assert_eq!((payment.state, payment.due()), (State::Created, 5_000));
    // The payer has paid after all: nothing is due, and what was captured stays.
    payment.set_billed(aed(4_000)).unwrap();
    assert_eq!((payment.state, payment.due()), (State::Captured, 0));
}

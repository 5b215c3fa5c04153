use super::*;
use crate::settlement::DenialPolicy;

pub(crate) fn insured(gross: i64, patient_share: i64, payer_net: i64) -> Order {
    let price = Price {
        gross,
        patient_share,
        payer_net,
        other_payer: gross - patient_share - payer_net,
    };
    let new_order = NewOrder {
        facility: Facility::new("F1").unwrap(),
        reference: String::new(),
        patient_id: "P1".into(),
        currency: Currency::AED,
        price,
        payer_id: if payer_net > 0 {
            "INS-1".into()
        } else {
            String::new()
        },
        immediate: false,
        payment_method: "tok".into(),
    };
    let mut order = Order::place(new_order, Uuid::now_v7());
    order.changes.clear();
    order
}

pub(crate) fn fulfilled(mut order: Order) -> Order {
    order.confirm().unwrap();
    order.fulfil().unwrap();
    order.settle(&DenialPolicy::default()).unwrap();
    order.busy = false;
    order.changes.clear();
    order
}

pub(crate) fn changes(order: &mut Order) -> Vec<Change> {
    order.changes.drain(..).map(|(_, change)| change).collect()
}

#[test]
fn a_self_pay_order_is_settled_as_soon_as_it_is_fulfilled() {
    let mut order = insured(10_000, 10_000, 0);
    order.confirm().unwrap();
    order.fulfil().unwrap();
    order.settle(&DenialPolicy::default()).unwrap();
    assert_eq!(order.state, State::Settled);
    let settled = Change::Settled {
        written_off: 0,
        patient_written_off: 0,
    };
    assert_eq!(
        changes(&mut order),
        [Change::Confirmed, Change::Fulfilled, settled]
    );
}

#[test]
fn every_published_change_has_its_own_version() {
    let mut order = insured(10_000, 10_000, 0);
    order.confirm().unwrap();
    order.fulfil().unwrap();
    let versions: Vec<i64> = order.changes.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, [2, 3]);
}

#[test]
fn an_undone_order_ends_according_to_its_state() {
    let mut declined = insured(10_000, 10_000, 0);
    declined.fail(Failure::new("CARD_DECLINED", "")).unwrap();
    declined.mark_undone().unwrap();
    assert_eq!(
        changes(&mut declined),
        [Change::Rejected {
            reason: "CARD_DECLINED".into()
        }]
    );

    let mut unpaid = insured(10_000, 10_000, 0);
    let expires_at = OffsetDateTime::UNIX_EPOCH;
    unpaid.await_payment(Uuid::now_v7(), expires_at).unwrap();
    assert!(unpaid.is_expired(expires_at));
    assert!(!unpaid.is_expired(expires_at - time::Duration::SECOND));
    unpaid.fail(Failure::new("PAYMENT_WINDOW_PASSED", "")).unwrap();
    unpaid.mark_undone().unwrap();
    assert_eq!((unpaid.state, unpaid.expires_at), (State::Expired, None));

    let mut lapsed = insured(10_000, 10_000, 0);
    lapsed.confirm().unwrap();
    lapsed.fail(Failure::new("PAYMENT_EXPIRED", "")).unwrap();
    assert_eq!(lapsed.state, State::Cancelling);
    lapsed.mark_undone().unwrap();
    assert_eq!(lapsed.state, State::Cancelled);
}

#[test]
fn a_transition_that_is_not_allowed_names_both_states() {
    let mut order = insured(10_000, 10_000, 0);
    let refused = order.fulfil().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the order is PENDING and cannot become FULFILLED"
    );
}

//! What the payer refuses and the patient pays: when it can be paid, how often, and what is booked for it.

use proto::{
    order::v1::{OrderAdjusted, OrderBalanceDue, OrderSettled},
    payment::v1::{
        LedgerAccount::{BadDebt, Cash, PatientReceivable, PayerReceivable, Revenue},
        PaymentPurpose, PaymentState,
    },
};
use tonic::Code;
use uuid::Uuid;

use crate::{
    payment_ledger::{LEDGER, balance_due, fulfilled, pay},
    payment_rig::{Rig, aed, minor, reason},
};

const BALANCE: PaymentPurpose = PaymentPurpose::Balance;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_payer_refuses_is_paid_by_the_patient_also_when_it_grows() {
    let rig = Rig::start().await;
    let order = Uuid::new_v4();
    fulfilled(&rig, order, 0, 10_000).await;
    assert_eq!(
        pay(&rig, order, "tok_visa").await.unwrap_err().code(),
        Code::NotFound
    );

    balance_due(&rig, order, 3_000, 3_000).await;
    let created = rig.get(order, BALANCE).await.unwrap();
    assert_eq!(
        (created.state(), minor(created.amount.as_ref())),
        (PaymentState::Created, 3_000)
    );
    assert_eq!(
        pay(&rig, order, "tok_stolen_card").await.unwrap().state(),
        PaymentState::Declined
    );
    let refused = pay(&rig, order, "tok_capture_fails").await.unwrap();
    assert_eq!(
        (refused.state(), refused.decline_reason.as_str()),
        (PaymentState::Declined, "CAPTURE_REFUSED")
    );
    assert_eq!(rig.statement(order).await.holds, 0);

    let paid = pay(&rig, order, "tok_visa").await.unwrap();
    assert_eq!(
        (paid.state(), minor(paid.captured.as_ref())),
        (PaymentState::Captured, 3_000)
    );
    let nothing = pay(&rig, order, "tok_visa").await.unwrap_err();
    assert_eq!(
        (nothing.code(), reason(&nothing).as_str()),
        (Code::FailedPrecondition, "NOTHING_DUE")
    );

    balance_due(&rig, order, 2_000, 2_000).await;
    let raised = rig.get(order, BALANCE).await.unwrap();
    assert_eq!(
        (raised.state(), minor(raised.amount.as_ref())),
        (PaymentState::Created, 5_000)
    );
    let paid = pay(&rig, order, "tok_mastercard").await.unwrap();
    assert_eq!(
        (paid.state(), minor(paid.captured.as_ref())),
        (PaymentState::Captured, 5_000)
    );
    let books = [
        (PatientReceivable, 0),
        (PayerReceivable, 5_000),
        (Cash, 5_000),
        (Revenue, -10_000),
    ];
    assert_eq!(rig.balances(order).await, books);
    // No charge is large enough alone.
    let refunded = rig.refund(&paid, Some(4_500)).await.unwrap();
    assert_eq!(
        (minor(refunded.refunded.as_ref()), refunded.refunds.len()),
        (4_500, 2)
    );
    let rest = rig.refund(&paid, None).await.unwrap();
    assert_eq!(minor(rest.refunded.as_ref()), 5_000);
    assert_eq!(rig.statement(order).await.given_back, 5_000);
}

/// The order tells what was billed in all: what it knows of the payments does not matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_denial_before_the_order_knows_of_the_payment_charges_nothing_twice() {
    let rig = Rig::start().await;
    let order = Uuid::new_v4();
    fulfilled(&rig, order, 0, 15_000).await;
    let due = |transferred: i64, billed: i64| OrderBalanceDue {
        order_id: order.to_string(),
        transferred: Some(aed(transferred)),
        written_off: None,
        balance: Some(aed(billed)),
        billed: Some(aed(billed)),
    };
    rig.publish(LEDGER, order, &due(10_000, 10_000)).await;
    pay(&rig, order, "tok_visa").await.unwrap();
    rig.publish(LEDGER, order, &due(5_000, 15_000)).await;
    let paid = pay(&rig, order, "tok_visa").await.unwrap();
    assert_eq!(minor(paid.captured.as_ref()), 15_000);
    assert_eq!(rig.statement(order).await.charged, 15_000);
    let books = [
        (PatientReceivable, 0),
        (PayerReceivable, 0),
        (Cash, 15_000),
        (Revenue, -15_000),
    ];
    assert_eq!(rig.balances(order).await, books);
}

/// A consumer that gains a subject catches up on what it has passed.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_late_is_booked_and_changes_nothing_that_a_later_one_has_said() {
    let rig = Rig::start().await;
    let order = Uuid::new_v4();
    fulfilled(&rig, order, 0, 15_000).await;
    let due = OrderBalanceDue {
        order_id: order.to_string(),
        transferred: Some(aed(15_000)),
        written_off: None,
        balance: Some(aed(10_000)),
        billed: Some(aed(10_000)),
    };
    rig.publish_version(LEDGER, (order, 7), &due).await;
    let late = OrderAdjusted {
        order_id: order.to_string(),
        patient_written_off: Some(aed(5_000)),
        billed: Some(aed(12_000)),
        ..OrderAdjusted::default()
    };
    rig.publish_version(LEDGER, (order, 5), &late).await;
    let balance = rig.get(order, BALANCE).await.unwrap();
    assert_eq!(minor(balance.amount.as_ref()), 10_000);
    assert!(rig.balances(order).await.contains(&(BadDebt, 5_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_written_off_balance_cannot_be_paid_any_more() {
    let rig = Rig::start().await;
    let order = Uuid::new_v4();
    fulfilled(&rig, order, 0, 10_000).await;
    balance_due(&rig, order, 10_000, 10_000).await;
    let settled = OrderSettled {
        order_id: order.to_string(),
        written_off: Some(aed(0)),
        patient_written_off: Some(aed(10_000)),
    };
    rig.publish(LEDGER, order, &settled).await;
    assert_eq!(
        rig.get(order, BALANCE).await.unwrap().state(),
        PaymentState::Voided
    );
    assert_eq!(
        reason(&pay(&rig, order, "tok_visa").await.unwrap_err()),
        "PAYMENT_VOIDED"
    );
    let books = [
        (PatientReceivable, 0),
        (PayerReceivable, 0),
        (Revenue, -10_000),
        (BadDebt, 10_000),
    ];
    assert_eq!(rig.balances(order).await, books);
}

#[tokio::test(flavor = "multi_thread")]
async fn paying_the_share_of_a_waiting_order_authorizes_it_and_captures_nothing() {
    let rig = Rig::start().await;
    let order = Uuid::new_v4();
    rig.authorize(order, 2_500, "").await.unwrap();
    let paid = pay(&rig, order, "tok_visa").await.unwrap();
    assert_eq!(
        (paid.state(), minor(paid.captured.as_ref())),
        (PaymentState::Authorized, 0)
    );
    assert_eq!(rig.events(&paid).await, ["Authorized"]);
}

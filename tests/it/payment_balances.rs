//! Balances that the payer denies and the patient pays: when they can be paid, how often, and their ledger
//! entries.

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
    payment_fixture::{Fixture, aed, minor, reason},
    payment_ledger::{LEDGER, balance_due, fulfilled, pay},
};

const BALANCE: PaymentPurpose = PaymentPurpose::Balance;

#[tokio::test(flavor = "multi_thread")]
async fn an_amount_denied_by_the_payer_is_paid_by_the_patient_also_when_it_grows() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    fulfilled(&fixture, order, 0, 10_000).await;
    assert_eq!(
        pay(&fixture, order, "tok_visa").await.unwrap_err().code(),
        Code::NotFound
    );

    balance_due(&fixture, order, 3_000, 3_000).await;
    let created = fixture.get(order, BALANCE).await.unwrap();
    assert_eq!(
        (created.state(), minor(created.amount.as_ref())),
        (PaymentState::Created, 3_000)
    );
    assert_eq!(
        pay(&fixture, order, "tok_stolen_card").await.unwrap().state(),
        PaymentState::Declined
    );
    let refused = pay(&fixture, order, "tok_capture_fails").await.unwrap();
    assert_eq!(
        (refused.state(), refused.decline_reason.as_str()),
        (PaymentState::Declined, "CAPTURE_REFUSED")
    );
    assert_eq!(fixture.statement(order).await.holds, 0);

    let paid = pay(&fixture, order, "tok_visa").await.unwrap();
    assert_eq!(
        (paid.state(), minor(paid.captured.as_ref())),
        (PaymentState::Captured, 3_000)
    );
    let nothing = pay(&fixture, order, "tok_visa").await.unwrap_err();
    assert_eq!(
        (nothing.code(), reason(&nothing).as_str()),
        (Code::FailedPrecondition, "NOTHING_DUE")
    );

    balance_due(&fixture, order, 2_000, 2_000).await;
    let raised = fixture.get(order, BALANCE).await.unwrap();
    assert_eq!(
        (raised.state(), minor(raised.amount.as_ref())),
        (PaymentState::Created, 5_000)
    );
    let paid = pay(&fixture, order, "tok_mastercard").await.unwrap();
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
    assert_eq!(fixture.balances(order).await, books);
    // No single charge is large enough.
    let refunded = fixture.refund(&paid, Some(4_500)).await.unwrap();
    assert_eq!(
        (minor(refunded.refunded.as_ref()), refunded.refunds.len()),
        (4_500, 2)
    );
    let rest = fixture.refund(&paid, None).await.unwrap();
    assert_eq!(minor(rest.refunded.as_ref()), 5_000);
    assert_eq!(fixture.statement(order).await.given_back, 5_000);
}

/// The order's event has the total amount billed: what the order service knows of the payments does not matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_denial_before_the_order_service_sees_the_payment_charges_nothing_twice() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    fulfilled(&fixture, order, 0, 15_000).await;
    let due = |transferred: i64, billed: i64| OrderBalanceDue {
        order_id: order.to_string(),
        transferred: Some(aed(transferred)),
        written_off: None,
        balance: Some(aed(billed)),
        billed: Some(aed(billed)),
    };
    fixture.publish(LEDGER, order, &due(10_000, 10_000)).await;
    pay(&fixture, order, "tok_visa").await.unwrap();
    fixture.publish(LEDGER, order, &due(5_000, 15_000)).await;
    let paid = pay(&fixture, order, "tok_visa").await.unwrap();
    assert_eq!(minor(paid.captured.as_ref()), 15_000);
    assert_eq!(fixture.statement(order).await.charged, 15_000);
    let books = [
        (PatientReceivable, 0),
        (PayerReceivable, 0),
        (Cash, 15_000),
        (Revenue, -15_000),
    ];
    assert_eq!(fixture.balances(order).await, books);
}

/// A consumer that gains a subject catches up on earlier events.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_is_booked_and_does_not_override_a_newer_one() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    fulfilled(&fixture, order, 0, 15_000).await;
    let due = OrderBalanceDue {
        order_id: order.to_string(),
        transferred: Some(aed(15_000)),
        written_off: None,
        balance: Some(aed(10_000)),
        billed: Some(aed(10_000)),
    };
    fixture.publish_version(LEDGER, (order, 7), &due).await;
    let late = OrderAdjusted {
        order_id: order.to_string(),
        patient_written_off: Some(aed(5_000)),
        billed: Some(aed(12_000)),
        ..OrderAdjusted::default()
    };
    fixture.publish_version(LEDGER, (order, 5), &late).await;
    let balance = fixture.get(order, BALANCE).await.unwrap();
    assert_eq!(minor(balance.amount.as_ref()), 10_000);
    assert!(fixture.balances(order).await.contains(&(BadDebt, 5_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_written_off_balance_cannot_be_paid_any_more() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    fulfilled(&fixture, order, 0, 10_000).await;
    balance_due(&fixture, order, 10_000, 10_000).await;
    let settled = OrderSettled {
        order_id: order.to_string(),
        written_off: Some(aed(0)),
        patient_written_off: Some(aed(10_000)),
    };
    fixture.publish(LEDGER, order, &settled).await;
    assert_eq!(
        fixture.get(order, BALANCE).await.unwrap().state(),
        PaymentState::Voided
    );
    assert_eq!(
        reason(&pay(&fixture, order, "tok_visa").await.unwrap_err()),
        "PAYMENT_VOIDED"
    );
    let books = [
        (PatientReceivable, 0),
        (PayerReceivable, 0),
        (Revenue, -10_000),
        (BadDebt, 10_000),
    ];
    assert_eq!(fixture.balances(order).await, books);
}

#[tokio::test(flavor = "multi_thread")]
async fn paying_the_share_of_a_waiting_order_authorizes_it_and_captures_nothing() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    fixture.authorize(order, 2_500, "").await.unwrap();
    let paid = pay(&fixture, order, "tok_visa").await.unwrap();
    assert_eq!(
        (paid.state(), minor(paid.captured.as_ref())),
        (PaymentState::Authorized, 0)
    );
    assert_eq!(fixture.events(&paid).await, ["Authorized"]);
}

//! Settlement of an order after the payer's remittance: billed to the patient, reviewed by a person, written off.

use proto::{
    order::v1::{BalanceResolution, Order, OrderState, ResolveOrderBalanceRequest, SettlementHold},
    payment::v1::{PayOrderRequest, PaymentState},
};
use tests::eventually;
use tonic::{Code, Status};

use crate::{
    claims_fixture::{advice, file, import},
    order_fixture::{Fixture, SOON, fresh, reason},
    samples::insured_order,
};

/// A fulfilled order over 120 dirhams, for which the payer pays 60 of 100 with this denial code.
async fn cut_by_the_payer(fixture: &Fixture, denial_code: &str) -> Order {
    let request = insured_order("tok_visa");
    let claim_id = request.claim.as_ref().unwrap().claim_id.clone();
    let order = fixture.place(request).await.unwrap();
    assert_eq!(order.state(), OrderState::Fulfilled);
    let document = file(&[advice(&claim_id, &[("A1", "100.00", "60.00", denial_code)])]);
    import(&fixture.claims, &fresh(), &document).await.unwrap();
    order
}

async fn resolve(fixture: &Fixture, order: &Order, resolution: BalanceResolution) -> Result<Order, Status> {
    let request = ResolveOrderBalanceRequest {
        request_id: fresh(),
        id: order.id.clone(),
        resolution: resolution.into(),
        reason: "looked at".to_owned(),
        amount: None,
    };
    Ok(fixture
        .orders
        .clone()
        .resolve_order_balance(request)
        .await?
        .into_inner()
        .order
        .unwrap())
}

async fn ledger_becomes(fixture: &Fixture, order: &Order, expected: &[(&str, i64)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(account, units)| ((*account).to_owned(), *units))
        .collect();
    eventually(SOON, || async {
        let balance = fixture.balance_of(&order.id).await;
        if balance == expected {
            Ok(())
        } else {
            Err(format!("{balance:?}"))
        }
    })
    .await;
}

async fn held_for_review(fixture: &Fixture, order: &Order) {
    eventually(SOON, || async {
        fixture
            .get(&order.id)
            .await
            .is_ok_and(|order| order.settlement_hold() == SettlementHold::Review)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amount_not_covered_by_the_payer_is_billed_to_and_paid_by_the_patient() {
    let fixture = Fixture::start().await;
    let order = cut_by_the_payer(&fixture, "COPY-002").await;
    let due = fixture.becomes(&order.id, OrderState::BalanceDue).await;
    assert_eq!(due.patient_balance.unwrap().units, 40);
    let owed = [
        ("patient_receivable", 40),
        ("cash", 20),
        ("payer_cash", 60),
        ("revenue", -120),
    ];
    ledger_becomes(&fixture, &order, &owed).await;

    let pay = |payment_method: &str| PayOrderRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        payment_method: payment_method.to_owned(),
    };
    let declined = fixture
        .payments
        .clone()
        .pay_order(pay("tok_decline"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(declined.payment.unwrap().state(), PaymentState::Declined);
    let paid = fixture
        .payments
        .clone()
        .pay_order(pay("tok_visa"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(paid.payment.unwrap().state(), PaymentState::Captured);
    fixture.becomes(&order.id, OrderState::Settled).await;
    ledger_becomes(
        &fixture,
        &order,
        &[("cash", 60), ("payer_cash", 60), ("revenue", -120)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_denial_waits_for_a_person_who_writes_it_off_or_bills_it() {
    let fixture = Fixture::start().await;
    let written_off = cut_by_the_payer(&fixture, "WRNG-001").await;
    let billed = cut_by_the_payer(&fixture, "WRNG-001").await;
    held_for_review(&fixture, &written_off).await;
    held_for_review(&fixture, &billed).await;

    let settled = resolve(&fixture, &written_off, BalanceResolution::WriteOff)
        .await
        .unwrap();
    assert_eq!(settled.state(), OrderState::Settled);
    let lost = [
        ("cash", 20),
        ("payer_cash", 60),
        ("revenue", -120),
        ("bad_debt", 40),
    ];
    ledger_becomes(&fixture, &written_off, &lost).await;
    let again = resolve(&fixture, &written_off, BalanceResolution::WriteOff)
        .await
        .unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::FailedPrecondition, "NOTHING_OPEN")
    );

    let due = resolve(&fixture, &billed, BalanceResolution::BillPatient)
        .await
        .unwrap();
    assert_eq!(due.state(), OrderState::BalanceDue);
    let forgiven = resolve(&fixture, &billed, BalanceResolution::WriteOff)
        .await
        .unwrap();
    assert_eq!(forgiven.state(), OrderState::Settled);
    ledger_becomes(&fixture, &billed, &lost).await;
}

//! The payer pays an amount that was billed to the patient or written off, the patient pays a bill, and people
//! decide about parts of it: the ledger agrees at the end of each scenario.

use proto::{
    order::v1::{
        BalanceResolution, Order, OrderState, RefundOrderRequest, ResolveOrderBalanceRequest, SettlementHold,
    },
    payment::v1::{
        ListPaymentsRequest, PayOrderRequest, PaymentPurpose, PaymentState, RefundPaymentRequest,
        VoidPaymentRequest,
    },
};
use tests::eventually;
use tonic::{Code, Status};

use crate::{
    claims_fixture::{advice, file, import},
    order_fixture::{Fixture, SOON, fresh, reason},
    samples::{aed, insured_order, self_pay_order},
};

/// A fulfilled order over 120 dirhams, and the number of its claim over 100 dirhams.
async fn fulfilled(fixture: &Fixture) -> (Order, String) {
    let request = insured_order("tok_visa");
    let claim_id = request.claim.as_ref().unwrap().claim_id.clone();
    (fixture.place(request).await.unwrap(), claim_id)
}

async fn remit(fixture: &Fixture, claim_id: &str, payment: &str, denial_code: &str) {
    let document = file(&[advice(claim_id, &[("A1", "100.00", payment, denial_code)])]);
    import(&fixture.claims, &fresh(), &document).await.unwrap();
}

fn resolution(
    order: &Order,
    resolution: BalanceResolution,
    units: Option<i64>,
) -> ResolveOrderBalanceRequest {
    ResolveOrderBalanceRequest {
        request_id: fresh(),
        id: order.id.clone(),
        resolution: resolution.into(),
        reason: "looked at".to_owned(),
        amount: units.map(aed),
    }
}

async fn resolve(fixture: &Fixture, request: ResolveOrderBalanceRequest) -> Result<Order, Status> {
    let answer = fixture.orders.clone().resolve_order_balance(request).await?;
    Ok(answer.into_inner().order.unwrap())
}

/// Pays the balance as soon as the payment service has consumed its event.
async fn pay(fixture: &Fixture, order: &Order) {
    let request = PayOrderRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        payment_method: "tok_visa".to_owned(),
    };
    let paid = eventually(SOON, || async {
        let paid = fixture.payments.clone().pay_order(request.clone()).await;
        paid.map_err(|status| status.to_string())
    })
    .await;
    let paid = paid.into_inner().payment.unwrap();
    assert_eq!(paid.state(), PaymentState::Captured);
}

async fn books_become(fixture: &Fixture, order: &Order, expected: &[(&str, i64)]) {
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

const PAID_IN_FULL: [(&str, i64); 3] = [("cash", 20), ("payer_cash", 100), ("revenue", -120)];

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_by_the_payer_after_the_patient_was_billed_clears_the_debt() {
    let fixture = Fixture::start().await;
    let (order, claim_id) = fulfilled(&fixture).await;
    remit(&fixture, &claim_id, "0.00", "NCOV-001").await;
    fixture.becomes(&order.id, OrderState::BalanceDue).await;
    remit(&fixture, &claim_id, "100.00", "").await;
    let settled = fixture.becomes(&order.id, OrderState::Settled).await;
    assert_eq!(settled.patient_balance, Some(aed(0)));
    assert_eq!(settled.transferred, Some(aed(0)));
    books_become(&fixture, &order, &PAID_IN_FULL).await;
    // Before the payment service has consumed the event, the balance could still be paid.
    eventually(SOON, || async {
        let request = ListPaymentsRequest {
            order_id: order.id.clone(),
            ..ListPaymentsRequest::default()
        };
        let listed = fixture.payments.clone().list_payments(request).await.unwrap();
        let payments = listed.into_inner().payments;
        payments
            .iter()
            .any(|payment| payment.state() == PaymentState::Voided)
    })
    .await;
    let request = PayOrderRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        payment_method: "tok_visa".to_owned(),
    };
    let refused = fixture.payments.clone().pay_order(request).await.unwrap_err();
    assert_eq!(reason(&refused), "PAYMENT_VOIDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amount_paid_by_both_is_a_credit_that_is_refunded_to_the_patient() {
    let fixture = Fixture::start().await;
    let (order, claim_id) = fulfilled(&fixture).await;
    remit(&fixture, &claim_id, "0.00", "NCOV-001").await;
    fixture.becomes(&order.id, OrderState::BalanceDue).await;
    pay(&fixture, &order).await;
    fixture.becomes(&order.id, OrderState::Settled).await;
    remit(&fixture, &claim_id, "100.00", "").await;
    let credited = eventually(SOON, || async {
        let order = fixture.get(&order.id).await.unwrap();
        if order.patient_credit == Some(aed(100)) {
            Ok(order)
        } else {
            Err(format!("{order:?}"))
        }
    })
    .await;
    assert_eq!(
        (credited.state(), credited.settlement_hold()),
        (OrderState::Settled, SettlementHold::Unspecified)
    );
    let request = RefundOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        amount: Some(aed(100)),
        reason: "the insurer has paid".to_owned(),
        ..RefundOrderRequest::default()
    };
    let refunded = fixture.refund(request).await.unwrap();
    assert_eq!(
        (refunded.state(), refunded.patient_credit),
        (OrderState::Settled, Some(aed(0)))
    );
    books_become(&fixture, &order, &PAID_IN_FULL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_by_the_payer_after_a_write_off_reverses_it() {
    let fixture = Fixture::start().await;
    let (order, claim_id) = fulfilled(&fixture).await;
    remit(&fixture, &claim_id, "0.00", "DUPL-001").await;
    fixture.becomes(&order.id, OrderState::Settled).await;
    let lost = [("cash", 20), ("revenue", -120), ("bad_debt", 100)];
    books_become(&fixture, &order, &lost).await;
    remit(&fixture, &claim_id, "100.00", "").await;
    books_become(&fixture, &order, &PAID_IN_FULL).await;
    let settled = fixture.get(&order.id).await.unwrap();
    assert_eq!(
        (settled.state(), settled.written_off),
        (OrderState::Settled, Some(aed(0)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_billed_and_a_part_is_written_off() {
    let fixture = Fixture::start().await;
    let (order, claim_id) = fulfilled(&fixture).await;
    remit(&fixture, &claim_id, "60.00", "WRNG-001").await;
    eventually(SOON, || async {
        let order = fixture.get(&order.id).await.unwrap();
        order.settlement_hold() == SettlementHold::Review
    })
    .await;
    let beyond = resolution(&order, BalanceResolution::BillPatient, Some(41));
    let refused = resolve(&fixture, beyond).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "AMOUNT_EXCEEDS_OPEN")
    );
    let part = resolution(&order, BalanceResolution::WriteOff, Some(15));
    let held = resolve(&fixture, part.clone()).await.unwrap();
    assert_eq!(
        (held.state(), held.settlement_hold()),
        (OrderState::Fulfilled, SettlementHold::Review)
    );
    let rest = resolution(&order, BalanceResolution::BillPatient, None);
    let due = resolve(&fixture, rest).await.unwrap();
    assert_eq!(
        (due.state(), due.patient_balance.clone()),
        (OrderState::BalanceDue, Some(aed(25)))
    );
    // A part of the patient's balance is written off: its payment is voided, and then charged with the remaining
    // amount.
    let forgiven = resolution(&order, BalanceResolution::WriteOff, Some(5));
    let due = resolve(&fixture, forgiven).await.unwrap();
    assert_eq!(due.patient_balance, Some(aed(20)));
    eventually(SOON, || async {
        let payments = fixture.payments_of(&order.id).await;
        let balance = payments
            .iter()
            .find(|payment| payment.purpose() == PaymentPurpose::Balance);
        balance.is_some_and(|payment| {
            payment.state() == PaymentState::Created && payment.amount == Some(aed(20))
        })
    })
    .await;
    pay(&fixture, &order).await;
    fixture.becomes(&order.id, OrderState::Settled).await;
    let books = [
        ("cash", 40),
        ("payer_cash", 60),
        ("revenue", -120),
        ("bad_debt", 20),
    ];
    books_become(&fixture, &order, &books).await;

    // A part is written off once, however late the request is repeated.
    forget_answers(&fixture).await;
    assert_eq!(resolve(&fixture, part).await.unwrap().written_off, Some(aed(20)));
    books_become(&fixture, &order, &books).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_off_voids_nothing_and_a_voided_balance_can_be_paid_again() {
    let fixture = Fixture::start().await;
    let (order, claim_id) = fulfilled(&fixture).await;
    remit(&fixture, &claim_id, "60.00", "WRNG-001").await;
    eventually(SOON, || async {
        let order = fixture.get(&order.id).await.unwrap();
        order.settlement_hold() == SettlementHold::Review
    })
    .await;
    let billing = resolution(&order, BalanceResolution::BillPatient, None);
    resolve(&fixture, billing.clone()).await.unwrap();
    eventually(SOON, || async { fixture.payments_of(&order.id).await.len() == 2 }).await;
    let reused = ResolveOrderBalanceRequest {
        resolution: BalanceResolution::WriteOff.into(),
        ..billing
    };
    let refused = resolve(&fixture, reused).await.unwrap_err();
    assert_eq!(reason(&refused), "IDEMPOTENCY_KEY_REUSED");
    let published = "select count(*) from events.event_log where subject = 'evt.payment.payment.voided'";
    let voids = fixture
        .stack
        .database(tests::Service::Payment)
        .count(published)
        .await;
    assert_eq!(voids, 0, "the refused request has let nothing go");

    let void = VoidPaymentRequest {
        request_id: fresh(),
        order_id: order.id.clone(),
        purpose: PaymentPurpose::Balance.into(),
        reason: "by mistake".to_owned(),
    };
    fixture.payments.clone().void_payment(void).await.unwrap();
    pay(&fixture, &order).await;
    fixture.becomes(&order.id, OrderState::Settled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_made_at_the_payment_service_is_recorded_as_a_refund_of_the_order() {
    let fixture = Fixture::start().await;
    let order = fixture.place(self_pay_order("tok_visa")).await.unwrap();
    fixture.fulfil(&order.id).await.unwrap();
    let by_hand = RefundPaymentRequest {
        request_id: fresh(),
        id: order.payment_id.clone(),
        amount: Some(aed(10)),
        reason: "by telephone".to_owned(),
    };
    fixture.payments.clone().refund_payment(by_hand).await.unwrap();
    eventually(SOON, || async {
        fixture.get(&order.id).await.unwrap().refunded == Some(aed(10))
    })
    .await;
    books_become(&fixture, &order, &[("cash", 20), ("revenue", -20)]).await;

    let rest = RefundOrderRequest {
        request_id: fresh(),
        id: order.id.clone(),
        reason: "all of it".to_owned(),
        ..RefundOrderRequest::default()
    };
    let returned = fixture.refund(rest).await.unwrap();
    assert_eq!(
        (returned.state(), returned.refunded, returned.refunds.len()),
        (OrderState::Returned, Some(aed(30)), 2)
    );
    books_become(&fixture, &order, &[]).await;
}

/// Deletes the stored answers, as if two days had passed.
async fn forget_answers(fixture: &Fixture) {
    for service in [tests::Service::Order, tests::Service::Payment] {
        let pool = fixture.stack.database(service).superuser().await;
        sqlx::query("delete from chassis.idempotency")
            .execute(&pool)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_moves_once_however_late_a_request_is_repeated() {
    let fixture = Fixture::start().await;
    let placing = insured_order("tok_visa");
    let placed = fixture.place(placing.clone()).await.unwrap();
    let refunding = RefundOrderRequest {
        request_id: fresh(),
        id: placed.id.clone(),
        amount: Some(aed(5)),
        reason: "a discount".to_owned(),
        ..RefundOrderRequest::default()
    };
    fixture.refund(refunding.clone()).await.unwrap();
    let by_hand = RefundPaymentRequest {
        request_id: fresh(),
        id: placed.payment_id.clone(),
        amount: Some(aed(3)),
        reason: "by telephone".to_owned(),
    };
    fixture
        .payments
        .clone()
        .refund_payment(by_hand.clone())
        .await
        .unwrap();
    forget_answers(&fixture).await;

    let again = fixture.orders.clone().place_order(placing.clone()).await.unwrap();
    assert!(again.metadata().get("idempotency-replayed").is_some());
    assert_eq!(again.into_inner().order.unwrap().id, placed.id);
    fixture.refund(refunding.clone()).await.unwrap();
    let again = fixture
        .payments
        .clone()
        .refund_payment(by_hand.clone())
        .await
        .unwrap();
    assert!(again.metadata().get("idempotency-replayed").is_some());
    assert_eq!(fixture.rows("select count(*) from orders.placed_order").await, 1);
    assert_eq!(fixture.money_of(&placed.id).await, (20, 20, 8));

    // Another request with one of these ids is still refused.
    forget_answers(&fixture).await;
    let mut other = placing;
    other.patient_id = "PT-9".to_owned();
    let refused = fixture.place(other).await.unwrap_err();
    assert_eq!(reason(&refused), "IDEMPOTENCY_KEY_REUSED");
    let other = RefundOrderRequest {
        amount: Some(aed(6)),
        ..refunding
    };
    assert_eq!(
        reason(&fixture.refund(other).await.unwrap_err()),
        "IDEMPOTENCY_KEY_REUSED"
    );
    let other = RefundPaymentRequest {
        amount: Some(aed(4)),
        ..by_hand
    };
    let refused = fixture.payments.clone().refund_payment(other).await.unwrap_err();
    assert_eq!(reason(&refused), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(fixture.money_of(&placed.id).await, (20, 20, 8));
}

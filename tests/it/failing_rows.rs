//! Background work continues past a row that fails permanently, and the row is reported.

use proto::{
    claims::v1::ClaimState,
    order::v1::OrderState,
    payment::v1::{PayOrderRequest, PaymentPurpose, PaymentState},
};
use sqlx::AssertSqlSafe;
use tests::{Options, Service, Stack, eventually};
use uuid::Uuid;

use crate::{
    claims_fixture, order_fixture,
    order_fixture::{SOON, fresh},
    payment_fixture,
    samples::self_pay_order,
};

/// Makes a statement of the service fail permanently where `condition` holds, as a corrupt row would.
async fn break_rows(stack: &Stack, service: Service, table: &str, event: &str, condition: &str) {
    let owner = stack.database(service).owner().await;
    let trigger = format!(
        "create function public.broken() returns trigger language plpgsql as $$ begin
             raise exception 'a broken row' using errcode = 'check_violation';
         end $$;
         create trigger broken before {event} on {table} for each row when ({condition})
             execute function public.broken()"
    );
    sqlx::raw_sql(AssertSqlSafe(trigger))
        .execute(&owner)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_cannot_be_expired_does_not_block_the_others() {
    let options = Options::default()
        .set(Service::Payment, "authorization.lifetime_s", "3")
        .set(Service::Payment, "authorization.sweep_ms", "50");
    let fixture = payment_fixture::Fixture::with(options).await;
    // The one that expires first.
    let broken = Uuid::new_v4();
    let payment = fixture.authorize(broken, 3_000, "tok_visa").await.unwrap();
    let condition = format!("new.payment_id = '{}'", payment.id);
    break_rows(
        &fixture.stack,
        Service::Payment,
        "payment.operation",
        "insert",
        &condition,
    )
    .await;
    let mut others = Vec::new();
    for _ in 0..3 {
        let order = Uuid::new_v4();
        fixture.authorize(order, 3_000, "tok_visa").await.unwrap();
        others.push(order);
    }
    for order in others {
        fixture
            .becomes(order, PaymentPurpose::Share, PaymentState::Expired)
            .await;
    }
    let broken = fixture.get(broken, PaymentPurpose::Share).await.unwrap();
    assert_eq!(broken.state(), PaymentState::Authorized);
    eventually(SOON, || async {
        fixture.stack.log(Service::Payment).contains("cannot be let go")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_cannot_be_followed_up_does_not_block_the_others() {
    let options = Options::default()
        .set(Service::Claims, "sandbox.acknowledge_after_ms", "1500")
        .set(Service::Claims, "post_office.poll_ms", "50")
        .set(Service::Claims, "post_office.ask_again_ms", "50")
        .set(Service::Claims, "post_office.concurrency", "1");
    let fixture = claims_fixture::Fixture::with(options).await;
    let pending = || proto::claims::v1::ClaimDetails {
        payer_id: "SANDBOX-PENDING".to_owned(),
        claim_id: format!("CLM-{}", Uuid::new_v4().simple()),
        ..claims_fixture::example_claim()
    };
    let broken = fixture.filed(pending()).await;
    let condition = format!(
        "new.id = '{}' and new.filing_epoch <> old.filing_epoch",
        broken.id
    );
    break_rows(
        &fixture.stack,
        Service::Claims,
        "claims.claim",
        "update",
        &condition,
    )
    .await;
    let other = fixture.filed(pending()).await;
    eventually(SOON, || async {
        fixture.get(&other.id).await.state() == ClaimState::Accepted
    })
    .await;
    assert_eq!(fixture.get(&broken.id).await.state(), ClaimState::Submitted);
    let aside = format!(
        "select count(*) from claims.claim where id = '{}' and next_filing_at > now() + interval '20 s'",
        broken.id
    );
    eventually(SOON, || async { fixture.count(&aside).await == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_saga_becomes_stuck_and_the_others_continue() {
    let fixture = order_fixture::Fixture::start().await;
    let (broken, other) = (
        fixture.place(self_pay_order("")).await.unwrap(),
        fixture.place(self_pay_order("")).await.unwrap(),
    );
    let owner = fixture.stack.database(Service::Order).superuser().await;
    let unreadable = format!(
        "alter table orders.saga drop constraint if exists saga_kind_check;
         update orders.saga set plan = array['a_step_of_a_later_version'], wake_at = now() where id = '{}'",
        broken.saga_id
    );
    sqlx::raw_sql(AssertSqlSafe(unreadable))
        .execute(&owner)
        .await
        .unwrap();
    let stuck = format!(
        "select count(*) from orders.saga where id = '{}' and state = 'stuck' and lease_until is null
             and wake_at > now() and reason <> ''",
        broken.saga_id
    );
    eventually(SOON, || async { fixture.rows(&stuck).await == 1 }).await;

    let pay = PayOrderRequest {
        request_id: fresh(),
        order_id: other.id.clone(),
        payment_method: "tok_visa".into(),
    };
    fixture.payments.clone().pay_order(pay).await.unwrap();
    fixture.becomes(&other.id, OrderState::Confirmed).await;
}

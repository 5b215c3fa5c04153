//! Background work goes on past a row that fails for good, and the row shows.

use proto::{
    claims::v1::ClaimState,
    order::v1::OrderState,
    payment::v1::{PayOrderRequest, PaymentPurpose, PaymentState},
};
use sqlx::AssertSqlSafe;
use tests::{Options, Service, Stack, eventually};
use uuid::Uuid;

use crate::{
    claims_rig, order_rig,
    order_rig::{SOON, fresh},
    payment_rig,
    samples::self_pay_order,
};

/// Makes a statement of the service fail for good where `condition` holds, as a broken row would.
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
async fn an_authorization_that_cannot_be_let_go_keeps_no_other_from_lapsing() {
    let options = Options::default()
        .set(Service::Payment, "authorization.lifetime_s", "3")
        .set(Service::Payment, "authorization.sweep_ms", "50");
    let rig = payment_rig::Rig::with(options).await;
    // The one that lapses first.
    let broken = Uuid::new_v4();
    let payment = rig.authorize(broken, 3_000, "tok_visa").await.unwrap();
    let condition = format!("new.payment_id = '{}'", payment.id);
    break_rows(
        &rig.stack,
        Service::Payment,
        "payment.operation",
        "insert",
        &condition,
    )
    .await;
    let mut others = Vec::new();
    for _ in 0..3 {
        let order = Uuid::new_v4();
        rig.authorize(order, 3_000, "tok_visa").await.unwrap();
        others.push(order);
    }
    for order in others {
        rig.becomes(order, PaymentPurpose::Share, PaymentState::Expired)
            .await;
    }
    let broken = rig.get(broken, PaymentPurpose::Share).await.unwrap();
    assert_eq!(broken.state(), PaymentState::Authorized);
    eventually(SOON, || async {
        rig.stack.log(Service::Payment).contains("cannot be let go")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_cannot_be_followed_up_keeps_no_other_from_its_turn() {
    let options = Options::default()
        .set(Service::Claims, "sandbox.acknowledge_after_ms", "1500")
        .set(Service::Claims, "post_office.poll_ms", "50")
        .set(Service::Claims, "post_office.ask_again_ms", "50")
        .set(Service::Claims, "post_office.concurrency", "1");
    let rig = claims_rig::Rig::with(options).await;
    let pending = || proto::claims::v1::ClaimDetails {
        payer_id: "SANDBOX-PENDING".to_owned(),
        claim_id: format!("CLM-{}", Uuid::new_v4().simple()),
        ..claims_rig::story_claim()
    };
    let broken = rig.filed(pending()).await;
    let condition = format!(
        "new.id = '{}' and new.filing_epoch <> old.filing_epoch",
        broken.id
    );
    break_rows(&rig.stack, Service::Claims, "claims.claim", "update", &condition).await;
    let other = rig.filed(pending()).await;
    eventually(SOON, || async {
        rig.get(&other.id).await.state() == ClaimState::Accepted
    })
    .await;
    assert_eq!(rig.get(&broken.id).await.state(), ClaimState::Submitted);
    let aside = format!(
        "select count(*) from claims.claim where id = '{}' and next_filing_at > now() + interval '20 s'",
        broken.id
    );
    eventually(SOON, || async { rig.count(&aside).await == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_cannot_be_read_is_stuck_and_others_go_on() {
    let rig = order_rig::Rig::start().await;
    let (broken, other) = (
        rig.place(self_pay_order("")).await.unwrap(),
        rig.place(self_pay_order("")).await.unwrap(),
    );
    let owner = rig.stack.database(Service::Order).superuser().await;
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
    eventually(SOON, || async { rig.rows(&stuck).await == 1 }).await;

    let pay = PayOrderRequest {
        request_id: fresh(),
        order_id: other.id.clone(),
        payment_method: "tok_visa".into(),
    };
    rig.payments.clone().pay_order(pay).await.unwrap();
    rig.becomes(&other.id, OrderState::Confirmed).await;
}

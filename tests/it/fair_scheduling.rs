//! Scheduling of the workers: no saga waits for a service that is slow for others, or behind the backlog of
//! another facility.

use std::time::Duration;

use futures_util::future::join_all;
use proto::{
    order::v1::{CaptureMode, FulfilOrderRequest, GetOrderRequest, Order, OrderState, PlaceOrderRequest},
    payment::v1::PaymentState,
};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use tests::{Database, Options, Service, eventually};
use tonic::{Code, Request, Status};

use crate::{
    order_fixture::{Fixture, SOON, fresh},
    samples::{aed, insured_order, self_pay_order},
};

/// Due sagas, the oldest first: the first facility has many, at both participants.
const SAGAS: &str = "insert into orders.saga (id, facility, kind, order_id, plan, position, state, version, wake_at,
         deadline_at, begun_at, created_at, updated_at)
     select gen_random_uuid(), facility, 'place_order', gen_random_uuid(), array['prepare_claim', 'authorize_payment'],
         position, 'running', 1, now() - age * interval '1 second', now(), now(), now(), now()
     from (select 'al-noor' as facility, 1 as position, 100 + n as age from generate_series(1, 50) n
           union all select 'al-noor', 0, 100
           union all select 'elsewhere', 1, 2
           union all select 'elsewhere', 1, 1
           union all select 'last', 1, -60) due";

/// As [`SAGAS`]: operations without a worker.
const OPERATIONS: &str = "set session_replication_role = replica;
     insert into payment.operation (id, facility, payment_id, kind, state, root_id, currency, amount, request_id, lease_until)
     select gen_random_uuid(), facility, gen_random_uuid(), 'AUTHORIZE', 'UNKNOWN', gen_random_uuid(), 'AED', 1,
         gen_random_uuid(), now() - age * interval '1 second'
     from (select 'al-noor' as facility, 100 + n as age from generate_series(1, 50) n
           union all select 'elsewhere', 2
           union all select 'elsewhere', 1
           union all select 'last', -60) due";

async fn filled(service: &str, rows: &str) -> (Database, PgPool) {
    let database = tests::Postgres::shared().await.database(service).await;
    database.migrate(&["chassis", "events", service]).await;
    let superuser = database.superuser().await;
    sqlx::raw_sql(AssertSqlSafe(rows.to_owned()))
        .execute(&mut *superuser.acquire().await.unwrap())
        .await
        .unwrap();
    let app = database.app().await;
    (database, app)
}

/// The facilities of the sagas that a worker claims at `participant`, in alphabetical order. The worker drives two
/// of `al-noor` already.
async fn sagas(app: &PgPool, participant: &str, at_most: i32) -> Vec<String> {
    sqlx::query_scalar(
        "select facility from orders.claim_due_sagas(gen_random_uuid(), '1 minute', $1, $2, '{al-noor}', '{2}') order by 1",
    )
    .bind(at_most)
    .bind(participant)
    .fetch_all(app)
    .await
    .unwrap()
}

async fn operations(app: &PgPool, at_most: i32) -> Vec<String> {
    sqlx::query_scalar(
        "select operation_facility from payment.claim_due_operations('1 minute', $1, '{al-noor}', '{2}') order by 1",
    )
    .bind(at_most)
    .fetch_all(app)
    .await
    .unwrap()
}

#[tokio::test]
async fn due_sagas_are_claimed_per_participant_and_round_robin_by_facility() {
    let (_database, app) = filled("order", SAGAS).await;
    assert_eq!(sagas(&app, "payment", 1).await, ["elsewhere"]);
    assert_eq!(sagas(&app, "payment", 2).await, ["al-noor", "elsewhere"]);
    assert_eq!(sagas(&app, "payment", 3).await, ["al-noor"; 3]);
    assert_eq!(sagas(&app, "claims", 5).await, ["al-noor"]);
    assert!(sagas(&app, "claims", 5).await.is_empty());
    // The query of the previous version, while both serve.
    let rest = "select count(*) from orders.claim_due_sagas(gen_random_uuid(), '1 minute', 100)";
    let rest: i64 = sqlx::query_scalar(rest).fetch_one(&app).await.unwrap();
    assert_eq!(rest, 46);
}

#[tokio::test]
async fn open_operations_are_resumed_round_robin_by_facility() {
    let (_database, app) = filled("payment", OPERATIONS).await;
    assert_eq!(operations(&app, 1).await, ["elsewhere"]);
    assert_eq!(operations(&app, 2).await, ["al-noor", "elsewhere"]);
    assert_eq!(operations(&app, 3).await, ["al-noor"; 3]);
    let rest = "select count(*) from payment.claim_due_operations('1 minute', 100)";
    let rest: i64 = sqlx::query_scalar(rest).fetch_one(&app).await.unwrap();
    assert_eq!(rest, 46);
}

/// The worker resumes one saga at each participant, and `slow_service` waits for locks for as long as possible.
async fn one_at_a_time(slow_service: Service) -> Fixture {
    let options = Options::default()
        .set(Service::Order, "saga.concurrency", "1")
        .set(slow_service, "database.lock_timeout_ms", "60000")
        .set(slow_service, "database.statement_timeout_ms", "60000");
    Fixture::with(options).await
}

/// Until the transaction ends, every call of the service uses its full deadline.
async fn slow(fixture: &Fixture, service: Service, table: &str) -> Transaction<'static, Postgres> {
    let superuser = fixture.stack.database(service).superuser().await;
    let mut slow = superuser.begin().await.unwrap();
    let lock = format!("lock table {table} in access exclusive mode");
    sqlx::raw_sql(AssertSqlSafe(lock))
        .execute(&mut *slow)
        .await
        .unwrap();
    slow
}

/// An order that the insurer pays completely, so that only the claims service is called.
fn insured_alone() -> PlaceOrderRequest {
    let mut request = insured_order("");
    request.patient_share = Some(aed(0));
    let claim = request.claim.as_mut().unwrap();
    (claim.patient_share, claim.net) = (Some(aed(0)), Some(aed(120)));
    claim.activities[0].net = Some(aed(120));
    request
}

/// Sends a request and waits for only a second: then a worker continues it.
async fn begin<M: Clone, R>(request: M, call: impl AsyncFn(Request<M>) -> Result<R, Status>) {
    eventually(SOON, || async {
        let mut request = Request::new(request.clone());
        request.set_timeout(Duration::from_secs(1));
        match call(request).await {
            // It may have begun without an answer in time.
            Err(status) if status.code() != Code::Aborted => Err(status.to_string()),
            _ => Ok(()),
        }
    })
    .await;
}

async fn begin_order(fixture: &Fixture, mut request: PlaceOrderRequest) -> Order {
    request.reference = fresh();
    let order = GetOrderRequest {
        id: String::new(),
        reference: request.reference.clone(),
    };
    begin(request, async |request| {
        fixture.orders.clone().place_order(request).await
    })
    .await;
    let order = fixture.orders.clone().get_order(order).await.unwrap();
    order.into_inner().order.unwrap()
}

async fn begin_to_fulfil(fixture: &Fixture, id: &str) {
    let request = FulfilOrderRequest {
        request_id: fresh(),
        id: id.to_owned(),
    };
    begin(request, async |request| {
        fixture.orders.clone().fulfil_order(request).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_at_the_claims_service_continue_while_the_payment_service_is_slow() {
    let fixture = one_at_a_time(Service::Payment).await;
    fixture.stack.kill9(Service::Claims);
    let waiting = begin_order(&fixture, insured_alone()).await;
    assert_eq!(waiting.state(), OrderState::Pending);

    let slow = slow(&fixture, Service::Payment, "payment.payment").await;
    let orders = join_all((0..12).map(|_| begin_order(&fixture, self_pay_order("tok_visa")))).await;
    assert!(orders.iter().all(|order| order.state() == OrderState::Pending));

    fixture.stack.restart(Service::Claims).await;
    fixture.becomes(&waiting.id, OrderState::Fulfilled).await;
    for order in &orders {
        assert_eq!(fixture.get(&order.id).await.unwrap().state(), OrderState::Pending);
    }
    slow.rollback().await.unwrap();
    fixture.becomes(&orders[0].id, OrderState::Confirmed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_at_the_payment_service_continue_while_earlier_ones_wait_for_a_slow_claims_service() {
    let fixture = one_at_a_time(Service::Claims).await;
    let mut orders = Vec::new();
    for _ in 0..12 {
        let mut request = insured_order("tok_visa");
        request.capture_mode = CaptureMode::OnFulfilment.into();
        orders.push(fixture.place(request).await.unwrap().id);
    }
    fixture.stack.kill9(Service::Payment);
    join_all(orders.iter().map(|order| begin_to_fulfil(&fixture, order))).await;
    let slow = slow(&fixture, Service::Claims, "claims.claim").await;
    fixture.stack.restart(Service::Payment).await;
    for order in &orders {
        eventually(SOON, || async {
            fixture.payments_of(order).await[0].state() == PaymentState::Captured
        })
        .await;
        assert_eq!(fixture.get(order).await.unwrap().state(), OrderState::Confirmed);
    }
    slow.rollback().await.unwrap();
    fixture.becomes(&orders[0], OrderState::Fulfilled).await;
}

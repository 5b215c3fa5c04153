//! Concurrent orders share transactions, and nothing else.

use std::time::Duration;

use chassis::{Facility, idempotency::Key};
use order::store;
use proto::order::v1::{
    GetOrderRequest, Order, OrderState, PlaceOrderRequest, order_service_client::OrderServiceClient,
};
use sqlx::{PgConnection, Postgres, Transaction};
use tests::{Options, Service, eventually, stack::Client};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    order_fixture::{FACILITY, Fixture, SOON, fresh, reason},
    samples::{insured_order, self_pay_order},
};

const OTHER: &str = "al-safa";
const CALLS: usize = 16;
/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

type Call = JoinHandle<Result<Order, Status>>;

/// Locks a table against writes until the transaction is dropped.
async fn hold(fixture: &Fixture, service: Service, table: &str) -> Transaction<'static, Postgres> {
    let pool = fixture.stack.database(service).superuser().await;
    let mut held = pool.begin().await.unwrap();
    let lock = sqlx::AssertSqlSafe(format!("lock table {table} in exclusive mode"));
    sqlx::query(lock).execute(&mut *held).await.unwrap();
    held
}

fn send(orders: &OrderServiceClient<Client>, request: PlaceOrderRequest) -> Call {
    let mut orders = orders.clone();
    let mut request = tonic::Request::new(request);
    request.set_timeout(DEADLINE);
    tokio::spawn(async move { Ok(orders.place_order(request).await?.into_inner().order.unwrap()) })
}

/// Waits until a transaction waits for a locked table and the earlier requests have arrived.
async fn arrived(fixture: &Fixture, service: Service, clients: &[&OrderServiceClient<Client>]) {
    let waiting = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                   where d.datname = current_database() and l.relation is not null and not l.granted";
    let database = fixture.stack.database(service);
    eventually(SOON, || async { database.count(waiting).await > 0 }).await;
    // Calls of one connection are processed in order.
    for client in clients {
        for _ in 0..10 {
            let nothing = GetOrderRequest {
                id: fresh(),
                reference: String::new(),
            };
            let missing = (*client).clone().get_order(nothing).await.unwrap_err();
            assert_eq!(missing.code(), Code::NotFound);
        }
    }
}

/// Waits until this many orders wait to be concluded, or one has waited for long: on a slow machine the sagas are
/// written in between, and wait there.
async fn concluding(fixture: &Fixture, orders: i64) {
    let claims = fixture.stack.database(Service::Claims);
    let accepted = "select count(*) from claims.claim where state = 'ACCEPTED'";
    let long = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                    and clock_timestamp() - query_start > interval '2 seconds'";
    eventually(SOON, || async {
        claims.count(accepted).await == orders || fixture.rows(long).await > 0
    })
    .await;
}

fn client_of(fixture: &Fixture, facility: &str) -> OrderServiceClient<Client> {
    let token = fixture.stack.token(facility, &["clerk"]);
    OrderServiceClient::new(fixture.stack.connect(Service::Order, &token))
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_orders_of_two_facilities_share_transactions() {
    share_transactions(Service::Order, "orders.order_line").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_payments_of_two_facilities_share_transactions() {
    share_transactions(Service::Payment, "payment.ledger_transaction").await;
}

/// Asserts that one transaction wrote rows of orders of two facilities to the table.
async fn share_transactions(service: Service, table: &str) {
    let fixture = Fixture::start().await;
    let clients = [client_of(&fixture, FACILITY), client_of(&fixture, OTHER)];
    let shared = format!(
        "select count(*) from (
             select from {table} group by xmin::text having count(distinct facility) = 2) shared"
    );
    // On a busy machine concurrent calls may arrive one by one.
    for _ in 0..20 {
        let held = hold(&fixture, service, table).await;
        let calls: Vec<Call> = (0..CALLS)
            .map(|number| send(&clients[number % 2], insured_order("tok_visa")))
            .collect();
        arrived(&fixture, service, &[&clients[0], &clients[1]]).await;
        drop(held);
        for (number, call) in calls.into_iter().enumerate() {
            let order = call.await.unwrap().unwrap();
            assert_eq!(order.state(), OrderState::Fulfilled, "{:?}", order.failure);
            let facility = [FACILITY, OTHER][number % 2];
            let of_facility = format!(
                "select count(*) from orders.placed_order where id = '{}' and facility = '{facility}'",
                order.id
            );
            assert_eq!(fixture.rows(&of_facility).await, 1);
        }
        if fixture.stack.database(service).count(&shared).await > 0 {
            return;
        }
    }
    panic!("no transaction wrote rows of both facilities");
}

#[tokio::test(flavor = "multi_thread")]
async fn among_orders_written_together_one_with_a_taken_reference_is_refused_alone() {
    let fixture = Fixture::start().await;
    let with_reference = |reference: &str| PlaceOrderRequest {
        reference: reference.to_owned(),
        ..self_pay_order("tok_visa")
    };
    fixture.place(with_reference("INV-1")).await.unwrap();
    let held = hold(&fixture, Service::Order, "orders.order_line").await;
    // The second and the third request have the same reference.
    let references = ["INV-1", "INV-2", "INV-2"].into_iter().map(with_reference);
    let repeated = with_reference("INV-3");
    let others = (4..CALLS).map(|number| with_reference(&format!("INV-{number}")));
    let requests = references.chain([repeated.clone(), repeated]).chain(others);
    let calls: Vec<Call> = requests.map(|request| send(&fixture.orders, request)).collect();
    arrived(&fixture, Service::Order, &[&fixture.orders]).await;
    drop(held);
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    let refused = |answer: &Result<Order, Status>| match answer {
        Ok(_) => None,
        Err(status) => Some((status.code(), reason(status))),
    };
    let taken = (Code::AlreadyExists, "REFERENCE_TAKEN".to_owned());
    let refusals: Vec<_> = answers.iter().map(refused).collect();
    assert_eq!(refusals[0].as_ref(), Some(&taken));
    // One of the two succeeds, depending on which came first.
    let refused_of_the_pair: Vec<_> = refusals[1..3].iter().flatten().collect();
    assert_eq!(refused_of_the_pair, [&taken]);
    assert!(refusals[3..].iter().all(Option::is_none), "{refusals:?}");
    assert_eq!(answers[3].as_ref().unwrap(), answers[4].as_ref().unwrap());
    let orders = fixture.rows("select count(*) from orders.placed_order").await;
    assert_eq!(orders, CALLS as i64 - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_whose_process_is_killed_before_they_are_concluded_are_finished_once() {
    let fixture = Fixture::start().await;
    let held = hold(&fixture, Service::Order, "orders.saga_step").await;
    let requests: Vec<_> = (0..8).map(|_| insured_order("tok_visa")).collect();
    let calls: Vec<Call> = requests
        .iter()
        .map(|request| send(&fixture.orders, request.clone()))
        .collect();
    concluding(&fixture, 8).await;
    fixture.stack.kill9(Service::Order);
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    drop(held);
    fixture.stack.restart(Service::Order).await;
    for request in requests {
        let order = eventually(SOON, || fixture.place(request.clone())).await;
        assert_eq!(order.state(), OrderState::Fulfilled);
        assert_eq!(fixture.money_of(&order.id).await, (20, 20, 0));
        assert_eq!(fixture.claims_of(&order.id).await.len(), 1);
    }
    assert_eq!(fixture.rows("select count(*) from orders.placed_order").await, 8);
}

/// Of the orders that shared a transaction only one gets the database's own error.
#[tokio::test(flavor = "multi_thread")]
async fn orders_whose_transaction_the_database_interrupted_continue_and_never_get_stuck() {
    let fixture = Fixture::with(Options::default().set(Service::Order, "saga.lease_ms", "60000")).await;
    let held = hold(&fixture, Service::Order, "orders.saga_step").await;
    let calls: Vec<Call> = (0..8)
        .map(|_| send(&fixture.orders, insured_order("tok_visa")))
        .collect();
    concluding(&fixture, 8).await;
    // The first transaction has one order, and the second has those that arrived while it waited.
    for _ in 0..2 {
        let waiting = "select coalesce(min(pid), 0)::bigint from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock'";
        eventually(SOON, || async { fixture.rows(waiting).await > 0 }).await;
        let pid = fixture.rows(waiting).await;
        fixture
            .rows(&format!("select pg_terminate_backend({pid})::int::bigint"))
            .await;
        let there = format!("select count(*) from pg_stat_activity where pid = {pid}");
        eventually(SOON, || async { fixture.rows(&there).await == 0 }).await;
    }
    drop(held);
    for call in calls {
        // Some calls failed with the outage.
        let _ = call.await.unwrap();
    }
    let fulfilled = "select count(*) from orders.placed_order where state = 'fulfilled'";
    eventually(SOON, || async { fixture.rows(fulfilled).await == 8 }).await;
    let stuck = "select count(*) from events.event_log where type = 'order.v1.SagaStuck'";
    assert_eq!(fixture.rows(stuck).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_for_two_facilities_reaches_no_row_of_one_through_the_other() {
    let fixture = Fixture::start().await;
    let placed = fixture.place(insured_order("tok_visa")).await.unwrap();
    let pool = fixture.stack.database(Service::Order).app().await;
    let id = Uuid::parse_str(&placed.id).unwrap();

    let mut tx = pool.begin().await.unwrap();
    work_for(&mut tx, &format!("{FACILITY},{OTHER}")).await;
    let order = store::orders::get(&mut tx, id).await.unwrap().unwrap();
    let mut disguised = order.clone();
    disguised.facility = Facility::new(OTHER).unwrap();
    let saved = store::orders::save(&mut tx, &[(&disguised, order.version)])
        .await
        .unwrap();
    assert!(saved.is_empty(), "the order is another facility's");
    let saved = store::orders::save(&mut tx, &[(&order, order.version)])
        .await
        .unwrap();
    assert_eq!(saved, [id]);
    let mut saga = store::sagas::get(&mut tx, order.saga_id).await.unwrap().unwrap();
    let epoch = saga.epoch;
    saga.facility = disguised.facility.clone();
    let moved = store::sagas::SagaUpdate::released(&saga, epoch);
    assert!(store::sagas::save(&mut tx, &[moved]).await.unwrap().is_empty());
    tx.rollback().await.unwrap();

    // Rows of a facility that the transaction does not work for are invisible and cannot be written.
    let mut tx = pool.begin().await.unwrap();
    work_for(&mut tx, &format!("{OTHER},al-noor-2")).await;
    assert!(store::orders::get(&mut tx, id).await.unwrap().is_none());
    let key = Key::new("order.v1.OrderService/PlaceOrder", &fresh(), &()).unwrap();
    let mut order = order;
    order.id = Uuid::now_v7();
    let new = store::orders::NewRow {
        order: &order,
        lines: &[],
        claim: None,
        key: &key,
    };
    let refused = store::orders::insert(&mut tx, &[new]).await.unwrap_err();
    assert!(refused.to_string().contains("row-level security"), "{refused}");
}

async fn work_for(tx: &mut PgConnection, facilities: &str) {
    let set = sqlx::query("select set_config('weft.facility', $1, true)").bind(facilities);
    set.execute(tx).await.unwrap();
}

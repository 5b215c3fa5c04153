//! No list and no sweep scans a large table completely: the plans that PostgreSQL executes are checked.
//!
//! `make bench-tables` measures the same calls at ten million rows.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use proto::ops::v1::{
    ListHeldMessagesRequest, RepublishEventsRequest, event_service_client::EventServiceClient,
};
use tests::{
    Durability, Options, Service, Stack, eventually,
    plans::{self, Plan},
    tables::{self, Call},
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    order_fixture::SOON,
    payment_fixture::{self, Fixture},
};

const ROWS: u64 = 50_000;
/// A page of 50, its lines and one more of each; a sweep's page of 1,000.
const TOUCHED_AT_MOST: u64 = 1_500;
/// Number of repetitions: PostgreSQL considers a generic plan after five executions.
const TIMES: usize = 7;

/// Starts a stack whose service has large tables, and logs its plans.
async fn filled(service: Service) -> Stack {
    let options = Options::default()
        .own_postgres(Durability::Fast)
        .only(&[service])
        .set(service, "idempotency.prune_interval_s", "1");
    let stack = Stack::with(options).await;
    stack.stop(service).await;
    tables::fill(stack.database(service), service, ROWS).await;
    plans::log(stack.database(service), &format!("{service}_app")).await;
    stack.restart(service).await;
    stack
}

/// Makes every call of the service, waits until each of the sweeps has run, and checks all plans.
async fn check(stack: &Stack, service: Service, sweeps: &[&str]) {
    for call in tables::calls(stack, service) {
        for _ in 0..TIMES {
            answered(&call).await;
        }
    }
    eventually(SOON, || async {
        let seen = plans::logged(stack.postgres());
        sweeps
            .iter()
            .all(|sweep| seen.iter().any(|plan| plan.query.contains(sweep)))
    })
    .await;
    let excesses: BTreeSet<_> = plans::logged(stack.postgres())
        .iter()
        .filter(|plan| !is_bounded_otherwise(plan))
        .flat_map(|plan| plan.excesses(&tables::large(service), touched_at_most(plan)))
        .collect();
    assert!(excesses.is_empty(), "{excesses:#?}");
}

/// The broker creates a consumer of a large stream for each audit, which may take many seconds on a busy machine.
const BROKER: Duration = Duration::from_secs(120);

/// Makes a call; an audit again as long as it is UNAVAILABLE, as the contract says.
async fn answered(call: &Call) {
    eventually(BROKER, || async {
        let answer = call.run().await;
        let is_busy = answer.as_ref().err().map(Status::code) == Some(Code::Unavailable);
        let is_repeated = is_busy && call.name == "audit_events";
        assert!(answer.is_ok() || is_repeated, "{}: {answer:?}", call.name);
        answer
    })
    .await;
}

/// Bounds of single plans: up to 10,000 open dead letters are counted (for each of an administrator's facilities
/// and each state in turn), a replay's outcomes are read as far as it has sent, 5,000 effects and as many of the
/// operators' actions are pruned at once. A relay's page is 2,000 events of several lanes; 5,000 events of the log
/// are compared or republished at once.
fn touched_at_most(plan: &Plan) -> u64 {
    let counts = [
        "grouped as (",
        // The page of groups: no filter but facility and state.
        "d.state = s.state and d.id < before",
        "as \"more!\"",
        "events.dead_letter_depth()",
        "with recursive facility",
        "i.outcome is null",
        "delete from events.inbox",
        "from events.operator_action a",
        "delete from events.operator_action",
        "with page as materialized",
        "from events.event_log_published",
        "set pending = true",
    ];
    if counts.iter().any(|count| plan.query.contains(count)) {
        13_000
    } else {
        TOUCHED_AT_MOST
    }
}

/// Plans with another bound: the table of applied migrations has the name of its service; the ledger is folded
/// 20,000 entries at a time; 100,000 pending events of the outbox are counted.
fn is_bounded_otherwise(plan: &Plan) -> bool {
    plan.query.contains("weft_migrations")
        || plan.query.starts_with("insert into payment.ledger_total")
        || plan.query.contains("from events.outbox limit 100001")
        || plan.query.contains("desc limit 100000) last")
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_sweeps_of_orders_touch_a_page_of_rows_however_many_there_are() {
    let stack = filled(Service::Order).await;
    let sweeps = [
        "chassis.idempotency i",
        "chassis.audit a",
        "orders.saga p",
        "due_at <= now()",
        "open_sagas",
    ];
    check(&stack, Service::Order, &sweeps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_sweeps_of_payments_touch_a_page_of_rows_however_many_there_are() {
    let stack = filled(Service::Payment).await;
    // The totals are folded by then, or the balance would read the ledger.
    let database = stack.database(Service::Payment);
    let folded = "select folded_to - (select max(id) from payment.ledger_entry) from payment.ledger_folded";
    eventually(SOON, || async { database.count(folded).await == 0 }).await;
    let (payments, ledger) = payment_fixture::clients(&stack, payment_fixture::FACILITY);
    let fixture = Fixture {
        stack,
        payments,
        ledger,
    };
    pay(&fixture).await;
    publish_past_a_held_event(&fixture.stack).await;
    let sweeps = [
        "chassis.audit a",
        "lease_until < now()",
        "p.expires_at < now()",
        "delete from events.inbox",
        "from events.dead_letter d\n        where d.resolved_at",
        "with recursive facility",
        "seen as materialized",
        "state = 'running' and id > after",
        "from events.operator_action a",
        // The pending events are counted, and the age of the oldest is read.
        "from events.outbox limit 100001",
        "events.aside(own_lanes)",
    ];
    check(&fixture.stack, Service::Payment, &sweeps).await;
    let database = fixture.stack.database(Service::Payment);
    let old = "select count(*) from events.operator_action
               where created_at < now() - interval '730 days' and dead_letter_id is null";
    eventually(SOON, || async { database.count(old).await == 0 }).await;
    let kept = "select count(*) from events.operator_action where created_at < now() - interval '730 days'";
    assert_eq!(database.count(kept).await, (ROWS / 3 - 1).cast_signed());
}

/// Events behind a held one are read once, and events of other aggregates behind those are published. Events of
/// two days that the stream lacks are published again.
async fn publish_past_a_held_event(stack: &Stack) {
    let database = stack.database(Service::Payment);
    let waiting = async |expected: u64| {
        let waiting = async || database.count("select count(*) from events.outbox").await;
        eventually(SOON, || async { waiting().await == expected.cast_signed() }).await;
    };
    waiting(ROWS + 1).await;
    let token = stack.token(payment_fixture::FACILITY, &["admin"]);
    let mut events = EventServiceClient::new(stack.connect(Service::Payment, &token));
    let held = events
        .list_held_messages(ListHeldMessagesRequest::default())
        .await;
    let [held] = &held.unwrap().into_inner().messages[..] else {
        panic!("one is held")
    };
    assert_eq!((held.waiting_count, held.waiting_partial), (1_000, true));
    let request = RepublishEventsRequest {
        window: Some(prost_types::Duration {
            seconds: 2 * 86_400,
            nanos: 0,
        }),
        request_id: Uuid::new_v4().to_string(),
    };
    // The same request: a busy broker may be UNAVAILABLE for a moment.
    let republished = eventually(BROKER, || {
        let (mut events, request) = (events.clone(), request.clone());
        async move {
            events
                .republish_events(request)
                .await
                .map_err(|status| format!("{status:?}"))
        }
    });
    let republished = republished.await.into_inner();
    assert!(republished.republished_count > 1_000, "{republished:?}");
    waiting(ROWS + 1).await;
}

/// Authorizes, captures, refunds and voids, both concurrently and one after the other.
async fn pay(fixture: &Fixture) {
    for at_once in (1..=TIMES).chain([16]) {
        let paid = (0..at_once).map(|_| async {
            let payment = fixture.authorize(Uuid::new_v4(), 100, "tok_visa").await.unwrap();
            let payment = fixture.capture(&payment, None).await.unwrap();
            fixture.refund(&payment, None).await.unwrap();
            let order = Uuid::new_v4();
            fixture.authorize(order, 100, "tok_visa").await.unwrap();
            fixture.void(order).await.unwrap();
        });
        join_all(paid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_sweeps_of_claims_touch_a_page_of_rows_however_many_there_are() {
    let stack = filled(Service::Claims).await;
    check(
        &stack,
        Service::Claims,
        &["chassis.audit a", "next_filing_at <= now()"],
    )
    .await;
}

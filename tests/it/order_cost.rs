//! Cost of an order at the database and the broker, in counts that do not depend on the machine.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use proto::{
    claims::v1::Activity,
    order::v1::{OrderState, PlaceOrderRequest, order_service_client::OrderServiceClient},
};
use sqlx::PgPool;
use tests::{Options, Service, SqlCounters, Stack, eventually};

use crate::samples::{aed, insured_order, line};

const ORDERS: usize = 300;
/// Concurrent callers. A machine that is too slow to answer all in time uses half as many, and then a quarter.
const IN_FLIGHT: [usize; 3] = [64, 32, 16];
const SOON: Duration = Duration::from_secs(60);

/// Upper bound of a count: per order, and per second of the load, since the services poll while they wait, and a
/// slow machine waits longer.
struct Bound {
    name: &'static str,
    per_order: f64,
    per_second: f64,
}

/// Counts of 2026-11-28 plus a margin for machines on which fewer orders share a transaction: 32 to 46 statements,
/// 18 to 26 plans and 8 to 13 commits an order; where orders take more than two seconds, their sagas are written
/// in between. The bounds are lowered as orders become cheaper, and never raised.
const BOUNDS: [Bound; 6] = [
    Bound {
        name: "statements",
        per_order: 60.0,
        per_second: 100.0,
    },
    Bound {
        name: "plans",
        per_order: 32.0,
        per_second: 40.0,
    },
    Bound {
        name: "commits",
        per_order: 16.0,
        per_second: 60.0,
    },
    Bound {
        name: "WAL bytes",
        per_order: 51_000.0,
        per_second: 10_000.0,
    },
    Bound {
        name: "events",
        per_order: 15.4,
        per_second: 0.0,
    },
    // All updates except heap-only ones (HOT).
    Bound {
        name: "updates that write index entries",
        per_order: 9.0,
        per_second: 5.0,
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn an_insured_order_costs_no_more_than_its_bounds() {
    for in_flight in IN_FLIGHT {
        if let Some(counted) = count(in_flight).await {
            return counted.require(&BOUNDS);
        }
    }
    panic!("the machine does not answer {} callers in time", IN_FLIGHT[2]);
}

/// Counts of one load.
struct Counted {
    sums: BTreeMap<&'static str, f64>,
    seconds: f64,
    /// Details that help to find a regression.
    details: String,
}

/// Counts the cost of the orders; `None` when one of them was not fulfilled by its first call.
async fn count(in_flight: usize) -> Option<Counted> {
    let stack = Arc::new(Stack::with(slow_polling()).await);
    let mut databases = BTreeMap::new();
    for service in Service::ALL {
        databases.insert(
            service.name().to_owned(),
            stack.database(service).superuser().await,
        );
    }
    SqlCounters::prepare(&databases).await.unwrap();
    let before = SqlCounters::read(&databases).await.unwrap();
    let events_before = events(&stack).await;

    let began = Instant::now();
    place(&stack, ORDERS, in_flight).await?;
    wait_until_booked(&stack, ORDERS).await;
    let at_once = SqlCounters::read(&databases).await.unwrap();
    // A session reports its commits and rows when it ends.
    for service in Service::ALL {
        stack.stop(service).await;
    }
    eventually(SOON, || sessions_ended(&databases)).await;
    let seconds = began.elapsed().as_secs_f64();
    let mut counters = SqlCounters::read(&databases).await.unwrap();
    counters.take_statements_and_wal(at_once);
    let events = events(&stack).await - events_before;
    Some(Counted::new(&counters.since(&before), events, seconds))
}

/// Services with long poll intervals: the cost of polling depends on the duration of the load.
fn slow_polling() -> Options {
    let mut options = Options::default().count_statements();
    for (service, name) in [
        (Service::Order, "saga.poll_ms"),
        (Service::Order, "orders.watch_poll_ms"),
        (Service::Payment, "processor.poll_ms"),
        (Service::Claims, "post_office.poll_ms"),
    ] {
        options = options.set(service, name, "5000");
    }
    for service in Service::ALL {
        options = options.set(service, "events.relay.poll_ms", "1000");
    }
    options
}

/// Places the orders; `None` as soon as one is not fulfilled by its first call.
async fn place(stack: &Arc<Stack>, orders: usize, in_flight: usize) -> Option<()> {
    let token = stack.token("al-noor", &["clerk"]);
    let left = Arc::new(AtomicUsize::new(orders));
    let callers = (0..in_flight).map(|_| {
        let mut client = OrderServiceClient::new(stack.connect(Service::Order, &token));
        let left = Arc::clone(&left);
        tokio::spawn(async move {
            let take = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                let answer = client.place_order(three_lines()).await.ok()?.into_inner();
                (answer.order?.state() == OrderState::Fulfilled).then_some(())?;
            }
            Some(())
        })
    });
    let ended = futures_util::future::join_all(callers).await;
    ended.into_iter().map(Result::unwrap).collect()
}

/// Three lines over 120 dirhams, of which the insurer is billed 100.
fn three_lines() -> PlaceOrderRequest {
    let mut order = insured_order("tok_visa");
    order.lines = vec![line("SVC-CONS", 60), line("SVC-XRAY", 40), line("SVC-LAB", 20)];
    let claim = order.claim.as_mut().unwrap();
    let first = claim.activities[0].clone();
    let activity = |id: &str, code: &str, net| Activity {
        id: id.to_owned(),
        code: code.to_owned(),
        net: Some(aed(net)),
        ..first.clone()
    };
    claim.activities = vec![
        activity("A1", "SVC-CONS", 40),
        activity("A2", "SVC-XRAY", 40),
        activity("A3", "SVC-LAB", 20),
    ];
    order
}

/// Waits until all events are published and booked in the ledger.
async fn wait_until_booked(stack: &Stack, orders: usize) {
    eventually(SOON, || async {
        for service in Service::ALL {
            let depth = "select depth from events.outbox_depth()";
            let depth = stack.database(service).count(depth).await;
            if depth != 0 {
                return Err(format!("{depth} messages wait in the outbox of {service}"));
            }
        }
        let booked =
            "select count(distinct order_id) from payment.ledger_transaction where cause = 'ORDER_FULFILLED'";
        let booked = stack.database(Service::Payment).count(booked).await;
        if booked == orders as i64 {
            Ok(())
        } else {
            Err(format!("{booked} of {orders} orders are in the ledger"))
        }
    })
    .await;
}

async fn events(stack: &Stack) -> i64 {
    let mut events = 0;
    for service in Service::ALL {
        events += stack
            .database(service)
            .count("select count(*) from events.event_log")
            .await;
    }
    events
}

async fn sessions_ended(databases: &BTreeMap<String, PgPool>) -> bool {
    let sessions = "select count(*) from pg_stat_activity where usename like '%\\_app'";
    for pool in databases.values() {
        let sessions: i64 = sqlx::query_scalar(sessions).fetch_one(pool).await.unwrap();
        if sessions > 0 {
            return false;
        }
    }
    true
}

impl Counted {
    fn new(counters: &SqlCounters, events: i64, seconds: f64) -> Counted {
        let statements = counters.statements();
        let calls: i64 = statements.iter().map(|one| one.calls).sum();
        let plans: i64 = statements.iter().map(|one| one.plans).sum();
        let mut details = String::new();
        for one in &statements {
            let (calls, plans) = (one.calls as f64 / ORDERS as f64, one.plans as f64 / ORDERS as f64);
            let text: String = one.text.chars().take(110).collect();
            let _ = writeln!(
                details,
                "{:7.1} us {calls:7.2} calls {plans:6.2} plans an order, {}: {text}",
                one.milliseconds * 1e3 / ORDERS as f64,
                one.service
            );
        }
        let (mut updated, mut hot) = (0, 0);
        for (service, name, table) in counters.tables() {
            // Leases are renewed by time, independent of the number of orders.
            if name != "events.lease" {
                updated += table.updated;
                hot += table.hot_updated;
            }
            if table.inserted + table.updated + table.deleted > 0 {
                let _ = writeln!(details, "{service} {name}: {table:?}");
            }
        }
        let sums = BTreeMap::from([
            ("statements", calls as f64),
            ("plans", plans as f64),
            ("commits", counters.commits.values().sum::<i64>() as f64),
            ("WAL bytes", counters.wal.bytes as f64),
            ("events", events as f64),
            ("updates that write index entries", (updated - hot) as f64),
        ]);
        Counted {
            sums,
            seconds,
            details,
        }
    }

    fn require(&self, bounds: &[Bound]) {
        let mut broken = String::new();
        for bound in bounds {
            let (counted, orders) = (self.sums[bound.name], ORDERS as f64);
            let allowed = bound.per_order * orders + bound.per_second * self.seconds;
            println!(
                "{}: {:.2} an order, {:.2} allowed",
                bound.name,
                counted / orders,
                allowed / orders
            );
            if counted > allowed {
                let (counted, allowed) = (counted / orders, allowed / orders);
                let _ = writeln!(
                    broken,
                    "{}: {counted:.2} an order, {allowed:.2} allowed",
                    bound.name
                );
            }
        }
        println!("{:.1} s\n{}", self.seconds, self.details);
        assert!(broken.is_empty(), "an order has become dearer:\n{broken}");
    }
}

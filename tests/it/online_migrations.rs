//! Migrations that run while the previous version of a service continues to serve.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use proto::{
    claims::v1::ListClaimsRequest,
    order::v1::{ListOrdersRequest, OrderState},
    payment::v1::{ListPaymentsRequest, PayOrderRequest},
};
use sqlx::{AssertSqlSafe, PgPool};
use tests::{Options, Service, eventually};
use tonic::Status;

use crate::{
    order_fixture::{Fixture, SOON, fresh},
    samples::{insured_order, self_pay_order},
};

const CALLERS: usize = 4;

/// Reads and writes of all three services, and one order that the saga worker and a consumer process.
async fn mixed_load(fixture: &Fixture, rounds: &AtomicUsize) -> Result<(), Status> {
    let order = fixture.place(insured_order("tok_visa")).await?;
    assert_eq!(order.state(), OrderState::Fulfilled, "{order:?}");
    fixture.get(&order.id).await?;
    fixture
        .orders
        .clone()
        .list_orders(ListOrdersRequest::default())
        .await?;
    fixture
        .payments
        .clone()
        .list_payments(ListPaymentsRequest::default())
        .await?;
    fixture
        .claims
        .clone()
        .list_claims(ListClaimsRequest::default())
        .await?;

    let waiting = fixture.place(self_pay_order("")).await?;
    assert_eq!(waiting.state(), OrderState::AwaitingPayment, "{waiting:?}");
    fixture
        .payments
        .clone()
        .pay_order(PayOrderRequest {
            request_id: fresh(),
            order_id: waiting.id.clone(),
            payment_method: "tok_visa".into(),
        })
        .await?;
    fixture.becomes(&waiting.id, OrderState::Confirmed).await;
    rounds.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Runs the mixed load by several callers during `migrate`, and returns the failures.
async fn under_load(fixture: &Arc<Fixture>, migrate: impl AsyncFnOnce()) -> Vec<Status> {
    let over = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (fixture, over, rounds) = (fixture.clone(), over.clone(), rounds.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    mixed_load(&fixture, &rounds).await?;
                }
                Ok(())
            })
        })
        .collect();
    // Sessions have prepared their statements, and will reuse them.
    let warm = async |more: usize| {
        let from = rounds.load(Ordering::Relaxed);
        eventually(SOON, || async {
            rounds.load(Ordering::Relaxed) >= from + more || callers.iter().any(|caller| caller.is_finished())
        })
        .await;
    };
    warm(3 * CALLERS).await;
    migrate().await;
    warm(3 * CALLERS).await;
    over.store(true, Ordering::Relaxed);
    let ended = futures_util::future::join_all(callers).await;
    ended
        .into_iter()
        .filter_map(|ended| ended.unwrap().err())
        .collect()
}

async fn dead_letters(fixture: &Fixture) -> i64 {
    let mut dead = 0;
    for service in Service::ALL {
        let letters = "select count(*) from events.dead_letter";
        dead += fixture.stack.database(service).count(letters).await;
    }
    dead
}

async fn alter(owner: &PgPool, statement: &str) {
    let altered = sqlx::query(AssertSqlSafe(statement)).execute(owner).await;
    altered.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_to_every_table_fails_no_call_and_no_event() {
    let fixture = Arc::new(Fixture::with(Options::default()).await);
    let failed = under_load(&fixture, async || {
        for service in Service::ALL {
            let owner = fixture.stack.database(service).owner().await;
            let tables: Vec<String> = sqlx::query_scalar(
                "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where c.relkind in ('r', 'p') and not c.relispartition
                   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'weft_migrations')
                 order by 1",
            )
            .fetch_all(&owner)
            .await
            .unwrap();
            assert!(tables.len() > 10, "{tables:?}");
            for table in tables {
                alter(
                    &owner,
                    &format!("alter table {table} add column added_later text"),
                )
                .await;
            }
        }
    })
    .await;
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(dead_letters(&fixture).await, 0);
}

/// Statements name their columns, so that a prepared statement becomes stale only if the type of a column changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_fails_no_call_and_no_event() {
    let fixture = Arc::new(Fixture::with(Options::default()).await);
    let failed = under_load(&fixture, async || {
        for (service, table, column) in [
            (Service::Order, "orders.placed_order", "patient_id"),
            (Service::Payment, "payment.payment", "decline_reason"),
            (Service::Claims, "claims.claim", "rejection"),
        ] {
            let owner = fixture.stack.database(service).owner().await;
            let statement = format!("alter table {table} alter column {column} type varchar");
            alter(&owner, &statement).await;
        }
    })
    .await;
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(dead_letters(&fixture).await, 0);
    let noticed = Service::ALL.iter().any(|service| {
        let log = fixture.stack.folder().join(format!("{service}.log"));
        std::fs::read_to_string(log).unwrap().contains("made once more")
    });
    assert!(noticed, "no statement was stale: the test proves nothing");
}

//! Cost of the outbox in a business transaction.

use std::time::{Duration, Instant};

use sqlx::{Executor as _, PgPool};
use tests::backbone::{FACILITY, begin, event};
use uuid::Uuid;

use crate::{environment::Environment, median};

const CLIENTS: usize = 16;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(3);

/// Measures the transaction of PlaceOrder on the order service's own tables, with its two events and without.
pub(crate) async fn with_and_without_the_outbox() {
    let environment = Environment::start().await;
    environment.database.migrate(&["order"]).await;
    let owner = environment.database.owner().await;
    throughput(&environment.pool, false).await;
    let (mut plain, mut with_events, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let without = throughput(&environment.pool, false).await;
        let with = throughput(&environment.pool, true).await;
        // Events are not published here: the outbox would become longer than it ever is.
        owner.execute("truncate events.outbox").await.unwrap();
        ratios.push(with / without);
        plain.push(without);
        with_events.push(with);
    }
    println!(
        "business  {:.0} transactions/s without events, {:.0} with two each: {:.1} % less (medians of {ROUNDS} \
         alternating rounds, {CLIENTS} clients)",
        median(plain),
        median(with_events),
        100.0 * (1.0 - median(ratios)),
    );
}

async fn throughput(pool: &PgPool, with_events: bool) -> f64 {
    let start = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut count = 0_u32;
            while start.elapsed() < ROUND {
                place_order(&pool, with_events).await;
                count += 1;
            }
            count
        })
    });
    let counts = futures_util::future::join_all(clients).await;
    let total: u32 = counts.into_iter().map(Result::unwrap).sum();
    f64::from(total) / start.elapsed().as_secs_f64()
}

async fn place_order(pool: &PgPool, with_events: bool) {
    let (order, saga) = (Uuid::now_v7(), Uuid::now_v7());
    let mut tx = begin(pool).await.unwrap();
    let claim = sqlx::query(
        "insert into chassis.idempotency (facility, method, request_id, request_hash, resource_id)
         values ($1, '/order.v1.OrderService/PlaceOrder', $2, $3, $4) on conflict do nothing",
    );
    let claim = claim
        .bind(FACILITY)
        .bind(Uuid::new_v4())
        .bind([7_u8; 32])
        .bind(order);
    claim.execute(&mut *tx).await.unwrap();
    let placed = sqlx::query(
        "insert into orders.placed_order (id, facility, reference, patient_id, currency, gross, patient_share,
             payer_net, other_payer, payer_id, immediate, payment_method, state, saga_id, busy, version, created_at,
             updated_at)
         values ($1, $2, $3, 'patient-1', 'AED', 30000, 6000, 24000, 0, 'INS026', false, 'pm_card', 'pending', $4,
             true, 1, now(), now())",
    );
    let placed = placed
        .bind(order)
        .bind(FACILITY)
        .bind(order.to_string())
        .bind(saga);
    placed.execute(&mut *tx).await.unwrap();
    let lines = sqlx::query(
        "insert into orders.order_line (order_id, facility, number, code, description, quantity, amount)
         select $1, $2, n, '99213', 'Office visit, established patient', '1', 10000 from generate_series(1, 3) n",
    );
    lines.bind(order).bind(FACILITY).execute(&mut *tx).await.unwrap();
    let details =
        sqlx::query("insert into orders.order_claim (order_id, facility, details) values ($1, $2, $3)");
    let details = details.bind(order).bind(FACILITY).bind([7_u8; 400].as_slice());
    details.execute(&mut *tx).await.unwrap();
    let begun = sqlx::query(
        "insert into orders.saga (id, facility, kind, order_id, plan, position, state, version, lease_owner,
             lease_until, deadline_at, begun_at, created_at, updated_at)
         values ($1, $2, 'place_order', $3, '{prepare_claim,authorize_share}', 0, 'running', 1, $1,
             now() + '10 s', now() + '60 s', now(), now(), now())",
    );
    begun
        .bind(saga)
        .bind(FACILITY)
        .bind(order)
        .execute(&mut *tx)
        .await
        .unwrap();
    if with_events {
        let events = [event(order, 1), event(saga, 1)];
        events::append(&mut tx, &events).await.unwrap();
    }
    tx.commit().await.unwrap();
}

//! From the commit of an event to the commit of its effect.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _};
use tests::{
    backbone::{begin, event},
    eventually,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::environment::Environment;

const RATE: u32 = 1_000;
const SECONDS: u32 = 20;

/// Commits a business row and its event every millisecond, independent of earlier ones. Both times are
/// PostgreSQL's commit timestamps, taken just before a commit is synced: the measured time includes the one sync
/// between them.
pub(crate) async fn commit_to_effect() {
    let environment = Environment::start().await;
    let superuser = environment.database.superuser().await;
    sqlx::query("alter system set track_commit_timestamp = on")
        .execute(&superuser)
        .await
        .unwrap();
    environment.server.restart().await;
    let _running = (environment.relay(), environment.consume());
    let cause = "create table cause (event_id uuid primary key); grant insert on cause to order_app";
    environment.database.owner().await.execute(cause).await.unwrap();
    // Warms up connections and statements before the measurement.
    produce(&environment, 2).await;
    let warm = i64::from(2 * RATE);
    wait_for_effects(&environment, warm).await;
    produce(&environment, SECONDS).await;
    wait_for_effects(&environment, warm + i64::from(SECONDS * RATE)).await;

    let latency = |quantile: f64| {
        let query = format!(
            "with commits as (
                 select pg_xact_commit_timestamp(e.xmin) - pg_xact_commit_timestamp(c.xmin) as took
                 from effect e join cause c using (event_id) where e.id > {warm})
             select (1000 * extract(epoch from percentile_disc({quantile}) within group (order by took)))::bigint
             from commits"
        );
        let superuser = superuser.clone();
        async move {
            let milliseconds = sqlx::query_scalar::<_, i64>(AssertSqlSafe(query)).fetch_one(&superuser);
            milliseconds.await.unwrap()
        }
    };
    let transactions = format!("select count(distinct xmin::text) from effect where id > {warm}");
    let transactions = environment.database.count(&transactions).await;
    println!(
        "flow      {RATE} events/s for {SECONDS} s, {:.1} to a transaction of the consumer, commit to effect: p50 {} ms, \
         p99 {} ms, longest {} ms",
        f64::from(SECONDS * RATE) / transactions as f64,
        latency(0.5).await,
        latency(0.99).await,
        latency(1.0).await,
    );
}

async fn produce(environment: &Environment, seconds: u32) {
    let aggregates: Vec<_> = (0..500).map(|_| Uuid::new_v4()).collect();
    let mut due = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut running = JoinSet::new();
    for number in 0..seconds * RATE {
        due.tick().await;
        let (pool, outbox) = (environment.pool.clone(), environment.bus.outbox());
        let aggregate = aggregates[number as usize % aggregates.len()];
        running.spawn(async move {
            let event = event(aggregate, i64::from(number));
            let mut tx = begin(&pool).await.unwrap();
            let cause = sqlx::query("insert into cause (event_id) values ($1)").bind(event.id);
            cause.execute(&mut *tx).await.unwrap();
            events::append(&mut tx, &[event]).await.unwrap();
            tx.commit().await.unwrap();
            outbox.wake();
        });
    }
    running.join_all().await;
}

async fn wait_for_effects(environment: &Environment, effects: i64) {
    eventually(Duration::from_secs(120), || async {
        let count = environment.database.count("select count(*) from effect").await;
        if count == effects {
            Ok(())
        } else {
            Err(format!("{count} effects, not {effects}"))
        }
    })
    .await;
}

//! Whether all orders of a load are complete, checked in the databases behind the API.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool, Row as _, types::time::OffsetDateTime};
use uuid::Uuid;

use crate::{load::Sum, requests::Kind, system::System};

/// How long after the load all orders may take to be complete.
pub(crate) const WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// Number of orders for which the time from the order's end to its ledger entry is measured.
const SAMPLE: i64 = 2_000;

/// Result of the check after a load.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Completion {
    /// Time until completion.
    pub(crate) seconds: f64,
    /// Unmet conditions. Empty: all orders are complete.
    pub(crate) problems: Vec<String>,
}

/// Orders: fulfilled, rejected, all, and their number of distinct client references.
const ORDERS: &str = "
    select count(*) filter (where state in ('fulfilled', 'settled')), count(*) filter (where state = 'rejected'),
           count(*), count(distinct reference)
    from orders.placed_order";
/// Payments: captured in full; partly captured; with an open authorization.
const PAYMENTS: &str = "
    select count(*) filter (where state = 'CAPTURED' and captured = amount),
           count(*) filter (where captured > 0 and not (state = 'CAPTURED' and captured = amount)),
           count(*) filter (where state = 'AUTHORIZED')
    from payment.payment";
/// Claims: accepted; neither accepted nor withdrawn.
const CLAIMS: &str = "
    select count(*) filter (where state = 'ACCEPTED'), count(*) filter (where state not in ('ACCEPTED', 'WITHDRAWN'))
    from claims.claim";
/// The ledger: facilities and currencies whose entries do not sum to zero, and orders whose revenue is booked.
const LEDGER: &str = "
    select (select count(*) from (select 1 from payment.ledger_entry group by facility, currency
                                  having sum(amount) <> 0) unbalanced),
           (select count(distinct order_id) from payment.ledger_transaction where cause = 'ORDER_FULFILLED')";
const OUTBOX: &str = "select depth from events.outbox_depth()";
const ENDED: &str = "select id, updated_at from orders.placed_order where state in ('fulfilled', 'settled')
                     order by id desc limit $1";
const BOOKED: &str = "select order_id, created_at from payment.ledger_transaction
                      where cause = 'ORDER_FULFILLED' and order_id = any($1)";

impl Completion {
    /// Waits until all orders are complete, at most this long.
    ///
    /// # Errors
    /// When a server does not answer.
    pub(crate) async fn wait(
        system: &System,
        kind: Kind,
        sum: Sum,
        at_most: Duration,
    ) -> anyhow::Result<Completion> {
        let began = Instant::now();
        loop {
            let mut problems = pending(system).await?;
            // The counts are expensive, and mean nothing before.
            if problems.is_empty() {
                problems = counted(system, kind, sum).await?;
            }
            let seconds = began.elapsed().as_secs_f64();
            if problems.is_empty() || began.elapsed() > at_most {
                return Ok(Completion { seconds, problems });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Work that is still pending.
async fn pending(system: &System) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for (service, pool) in &system.databases {
        let [depth] = numbers(pool, OUTBOX).await?;
        if depth != 0 {
            problems.push(format!("{depth} messages wait in the outbox of {service}"));
        }
    }
    for consumer in system.consumers().await? {
        if consumer.pending != 0 {
            problems.push(format!(
                "the consumer {} has {} messages before it",
                consumer.name, consumer.pending
            ));
        }
    }
    Ok(problems)
}

/// Counts that do not agree: orders = captures = accepted claims, each once for every request.
async fn counted(system: &System, kind: Kind, sum: Sum) -> anyhow::Result<Vec<String>> {
    let database = |service: &str| {
        system
            .databases
            .get(service)
            .context("every service has a database")
    };
    let [fulfilled, rejected, orders, numbered] = numbers(database("order")?, ORDERS).await?;
    let [captured, partly, held] = numbers(database("payment")?, PAYMENTS).await?;
    let [unbalanced, booked] = numbers(database("payment")?, LEDGER).await?;
    let [accepted, open] = numbers(database("claims")?, CLAIMS).await?;
    let mut problems = Vec::new();
    let mut require = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    require(
        orders == numbered,
        format!("{orders} orders of {numbered} requests"),
    );
    require(
        orders == fulfilled + rejected,
        format!("{} orders have not ended", orders - fulfilled - rejected),
    );
    // The outcome of a failed call is unknown to its caller.
    require(
        (sum.fulfilled..=sum.fulfilled + sum.unknown).contains(&fulfilled),
        format!(
            "{fulfilled} orders are fulfilled, callers know of {} and not of {}",
            sum.fulfilled, sum.unknown
        ),
    );
    require(
        (sum.rejected..=sum.rejected + sum.unknown).contains(&rejected),
        format!(
            "{rejected} orders are rejected, callers know of {} and not of {}",
            sum.rejected, sum.unknown
        ),
    );
    require(
        captured == fulfilled && partly == 0 && held == 0,
        format!("{fulfilled} fulfilled orders, {captured} captures, {partly} partial ones, {held} holds"),
    );
    let claims = if kind == Kind::Insured { fulfilled } else { 0 };
    require(
        accepted == claims && open == 0,
        format!("{claims} fulfilled insured orders, {accepted} accepted claims, {open} open ones"),
    );
    require(
        booked == fulfilled,
        format!("{fulfilled} fulfilled orders, {booked} of them in the ledger"),
    );
    require(
        unbalanced == 0,
        format!("{unbalanced} trial balances are not zero"),
    );
    Ok(problems)
}

/// p50 and p95 of the milliseconds from an order's last transaction to that of its entry in the ledger, over the
/// latest orders.
pub(crate) async fn commit_to_ledger(system: &System) -> anyhow::Result<Option<[f64; 2]>> {
    let pool = |service: &str| {
        system
            .databases
            .get(service)
            .context("every service has a database")
    };
    let ended: Vec<(Uuid, OffsetDateTime)> = sqlx::query_as(ENDED)
        .bind(SAMPLE)
        .fetch_all(pool("order")?)
        .await?;
    let ids: Vec<Uuid> = ended.iter().map(|(id, _)| *id).collect();
    let booked: Vec<(Uuid, OffsetDateTime)> = sqlx::query_as(BOOKED)
        .bind(ids)
        .fetch_all(pool("payment")?)
        .await?;
    let booked: HashMap<Uuid, OffsetDateTime> = booked.into_iter().collect();
    let took = ended
        .iter()
        .filter_map(|(id, ended)| Some((*booked.get(id)? - *ended).as_seconds_f64() * 1_000.0));
    let mut took: Vec<f64> = took.collect();
    took.sort_by(f64::total_cmp);
    if took.is_empty() {
        return Ok(None);
    }
    Ok(Some([took[took.len() / 2], took[took.len() * 95 / 100]]))
}

async fn numbers<const N: usize>(pool: &PgPool, query: &str) -> anyhow::Result<[i64; N]> {
    let row = sqlx::query(AssertSqlSafe(query.to_owned()))
        .fetch_one(pool)
        .await?;
    let mut numbers = [0; N];
    for (place, number) in numbers.iter_mut().enumerate() {
        *number = row.try_get(place)?;
    }
    Ok(numbers)
}

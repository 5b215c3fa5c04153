//! Events that share a transaction of their consumer, and events that must not.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use events::{Delivery, Event, Handler, HandlerError};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tests::backbone::Recorder;
use tokio::sync::watch;
use uuid::Uuid;

use crate::events_fixture::{Fixture, event};

const EFFECTS: &str = "select count(*) from effect";

/// A fixture with unconsumed events in the stream, so that a consumer receives several at a time.
async fn waiting(events: &[Event]) -> Fixture {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    fixture.append_all(events).await;
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    fixture
}

/// The first event of each of `count` aggregates.
fn firsts(count: usize) -> Vec<Event> {
    (0..count).map(|_| event(Uuid::new_v4(), 1)).collect()
}

#[tokio::test]
async fn many_events_take_effect_in_few_transactions_and_in_order() {
    let aggregates: Vec<_> = (0..40).map(|_| Uuid::new_v4()).collect();
    let events: Vec<_> = (1..=5)
        .flat_map(|version| aggregates.iter().map(move |id| event(*id, version)))
        .collect();
    let mut fixture = waiting(&events).await;
    fixture.consume(|_| Ok(()));
    for aggregate in aggregates {
        assert_eq!(fixture.effects(aggregate, 5).await, [1, 2, 3, 4, 5]);
    }
    assert_eq!(fixture.database.count(EFFECTS).await, 200);
    let transactions = fixture
        .database
        .count("select count(distinct xmin::text) from effect")
        .await;
    assert!(transactions <= 50, "{transactions}");
}

#[tokio::test]
async fn an_event_that_fails_in_a_batch_has_its_attempts_counted_as_if_it_were_alone() {
    let failing = event(Uuid::new_v4(), 7);
    let mut events = firsts(40);
    events.insert(20, failing.clone());
    let mut fixture = waiting(&events).await;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    fixture.consume(move |delivery| {
        if delivery.version == 7 {
            counted.fetch_add(1, Ordering::SeqCst);
            return Err(HandlerError::transient("NOT_YET", "try again"));
        }
        Ok(())
    });
    let dead = "select count(*) from events.dead_letter where error_class = 'exhausted' and attempts = 5";
    fixture.eventually_count(1, dead).await;
    fixture.eventually_count(40, EFFECTS).await;
    assert!(fixture.versions(failing.meta.aggregate_id).await.is_empty());
    // The five attempts that count, and the one in a batch that does not.
    assert_eq!(tries.load(Ordering::SeqCst), 6);
    assert_eq!(
        fixture.database.count("select count(*) from events.inbox").await,
        40,
        "what was rolled back with it has one mark"
    );
}

#[tokio::test]
async fn a_handler_that_panics_in_a_batch_fails_alone() {
    let mut events = firsts(10);
    events.insert(5, event(Uuid::new_v4(), 7));
    let mut fixture = waiting(&events).await;
    let tries = AtomicU32::new(0);
    fixture.consume(move |delivery| {
        assert!(
            delivery.version != 7 || tries.fetch_add(1, Ordering::SeqCst) > 1,
            "odd"
        );
        Ok(())
    });
    fixture.eventually_count(11, EFFECTS).await;
    assert_eq!(
        fixture
            .database
            .count("select count(*) from events.dead_letter")
            .await,
        0
    );
}

/// Ignores the failure of its own statement, for version 7.
struct IgnoresFailedStatement;

impl Handler for IgnoresFailedStatement {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        if delivery.version == 7 {
            let _ = sqlx::query("select 1 / 0").execute(tx).await;
            return Ok(());
        }
        Recorder(|_: &Delivery| Ok(())).handle(tx, delivery).await
    }
}

#[tokio::test]
async fn a_handler_that_ignores_a_failed_statement_loses_no_effect_of_others_and_is_reported() {
    let mut events = firsts(10);
    events.push(event(Uuid::new_v4(), 7));
    let mut fixture = waiting(&events).await;
    fixture.consume_with(IgnoresFailedStatement);
    let dead = "select count(*) from events.dead_letter
                where error_class = 'exhausted' and error_code = 'FAILURE_IGNORED'";
    fixture.eventually_count(1, dead).await;
    fixture.eventually_count(10, EFFECTS).await;
    assert_eq!(
        fixture.database.count("select count(*) from events.inbox").await,
        10
    );
}

/// Records the facility of the transaction as the database sees it.
struct FacilityRecorder;

impl Handler for FacilityRecorder {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        sqlx::query("insert into seen values ($1, $2, current_setting('weft.facility'))")
            .bind(delivery.id)
            .bind(&delivery.facility)
            .execute(tx)
            .await?;
        Ok(())
    }
}

#[tokio::test]
async fn events_of_two_facilities_do_not_share_a_transaction() {
    let mut fixture = Fixture::start().await;
    let seen = "create table seen (event_id uuid primary key, facility text, setting text);
                grant select, insert on seen to order_app";
    fixture.database.owner().await.execute(seen).await.unwrap();
    for round in 0..15 {
        for facility in ["al-noor", "al-safa"] {
            let mut event = event(Uuid::new_v4(), round);
            event.meta.facility = facility.into();
            let begin = format!("begin; select set_config('weft.facility', '{facility}', true)");
            let mut tx = fixture.pool.begin_with(AssertSqlSafe(begin)).await.unwrap();
            events::append(&mut tx, &[event]).await.unwrap();
            tx.commit().await.unwrap();
        }
    }
    fixture.publish();
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    fixture.consume_with(FacilityRecorder);
    fixture.eventually_count(30, "select count(*) from seen").await;
    fixture
        .eventually_count(0, "select count(*) from seen where facility <> setting")
        .await;
    let transactions = fixture
        .database
        .count("select count(distinct xmin::text) from seen")
        .await;
    assert!(transactions <= 15, "{transactions}");
}

#[tokio::test]
async fn a_locked_row_delays_only_the_event_that_needs_it() {
    let events = firsts(20);
    let locked = &events[10];
    let mut fixture = waiting(&events).await;
    // The same key in an open transaction: the handler's insert waits for its end.
    let owner = fixture.database.owner().await;
    let mut other = owner.begin().await.unwrap();
    let taken = sqlx::query("insert into effect (event_id, aggregate_id, version) values ($1, $2, 0)");
    let taken = taken.bind(locked.id).bind(Uuid::new_v4());
    taken.execute(&mut *other).await.unwrap();
    fixture.consume(|_| Ok(()));
    fixture.eventually_count(19, EFFECTS).await;
    assert!(fixture.versions(locked.meta.aggregate_id).await.is_empty());
    other.rollback().await.unwrap();
    assert_eq!(fixture.effects(locked.meta.aggregate_id, 1).await, [1]);
    assert_eq!(
        fixture
            .database
            .count("select count(*) from events.failure")
            .await,
        0,
        "no event failed"
    );
}

/// More than the batches that start at once, and fewer than the connections of the fixture's pool.
const BARRIER_SIZE: usize = 3;

/// Ends once this many handlers have run at the same time.
struct HandlerBarrier(watch::Sender<Arrivals>);

#[derive(Default)]
struct Arrivals {
    now: usize,
    most: usize,
}

/// Counts one running handler until it is dropped: a handler may be cancelled.
struct Arrival<'a>(&'a watch::Sender<Arrivals>);

impl<'a> Arrival<'a> {
    fn new(barrier: &'a watch::Sender<Arrivals>) -> Self {
        barrier.send_modify(|arrivals| {
            arrivals.now += 1;
            arrivals.most = arrivals.most.max(arrivals.now);
        });
        Self(barrier)
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|arrivals| arrivals.now -= 1);
    }
}

impl Handler for HandlerBarrier {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        let _arrival = Arrival::new(&self.0);
        let mut arrivals = self.0.subscribe();
        arrivals
            .wait_for(|arrivals| arrivals.most >= BARRIER_SIZE)
            .await
            .unwrap();
        sqlx::query("insert into effect (event_id, aggregate_id, version) values ($1, $2, 1)")
            .bind(delivery.id)
            .bind(delivery.aggregate_id)
            .execute(tx)
            .await?;
        Ok(())
    }
}

#[tokio::test]
async fn slow_handlers_run_concurrently() {
    let mut fixture = waiting(&firsts(16)).await;
    // Run one after the other, they would never end.
    fixture.consume_with(HandlerBarrier(watch::Sender::default()));
    fixture.eventually_count(16, EFFECTS).await;
}

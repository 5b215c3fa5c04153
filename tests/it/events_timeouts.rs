//! Events that exceed the database's statement timeout: those that always do become dead letters, and an outage
//! counts against no event.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use events::{Consumer, Delivery, Handler, HandlerError};
use sqlx::PgConnection;
use tests::{backbone::SUBJECT, eventually};
use uuid::Uuid;

use crate::events_fixture::{CONSUMER, Fixture, SOON, event};

const SLOW: i64 = 1;

/// Exceeds the timeout for events of the version [`SLOW`].
struct Slow(Arc<AtomicUsize>);

impl Handler for Slow {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        if delivery.version == SLOW {
            self.0.fetch_add(1, Ordering::Relaxed);
            sqlx::query("set local statement_timeout = '20ms'")
                .execute(&mut *tx)
                .await?;
            sqlx::query("select pg_sleep(10)").execute(&mut *tx).await?;
        }
        sqlx::query("insert into effect (event_id, aggregate_id, version) values ($1, $2, $3)")
            .bind(delivery.id)
            .bind(delivery.aggregate_id)
            .bind(delivery.version)
            .execute(tx)
            .await?;
        Ok(())
    }
}

async fn fixture() -> Fixture {
    let mut fixture = Fixture::with(|settings| {
        settings.consumer.attempts = 2;
        settings.consumer.timeout_tries = 3;
    })
    .await;
    fixture.publish();
    fixture
}

async fn tried(tries: &AtomicUsize, more: usize) {
    let from = tries.load(Ordering::Relaxed);
    eventually(SOON, || async {
        (tries.load(Ordering::Relaxed) >= from + more).then_some(())
    })
    .await;
}

const DEAD_LETTERS: &str = "select count(*) from events.dead_letter";

#[tokio::test]
async fn an_event_that_always_times_out_while_others_take_effect_becomes_a_dead_letter() {
    let mut fixture = fixture().await;
    let tries = Arc::new(AtomicUsize::new(0));
    fixture.consume_with(Slow(tries.clone()));
    let (slow, free) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.append_all(&[event(slow, SLOW), event(slow, 2)]).await;
    // While no other event takes effect, the database may be the cause: the event is tried more often than
    // allowed, and waits.
    tried(&tries, 8).await;
    assert_eq!(fixture.database.count(DEAD_LETTERS).await, 0);
    let flow = async {
        for version in 2.. {
            fixture.append(free, [version]).await;
            tried(&tries, 1).await;
        }
    };
    let dead = eventually(SOON, || async {
        (fixture.database.count(DEAD_LETTERS).await == 1).then_some(())
    });
    tokio::select! {
        () = dead => {}
        () = flow => {}
    }
    let exhausted = "select count(*) from events.dead_letter where error_class = 'exhausted'
                   and error_code = 'STATEMENT_TIMED_OUT' and attempts >= 3 and version = 1";
    assert_eq!(fixture.database.count(exhausted).await, 1);
    // Later events of the aggregate wait behind it.
    fixture
        .eventually_count(1, "select count(*) from events.parked")
        .await;
}

#[tokio::test]
async fn restarts_of_a_consumer_do_not_count_as_crashes_of_a_waiting_event() {
    let mut fixture = fixture().await;
    let tries = Arc::new(AtomicUsize::new(0));
    fixture.append(Uuid::new_v4(), [SLOW]).await;
    for _ in 0..5 {
        let consumer = fixture.consume_as(Consumer::new(CONSUMER, &[SUBJECT], Slow(tries.clone())));
        tried(&tries, 2).await;
        consumer.cancel();
        fixture
            .eventually_count(
                0,
                "select count(*) from events.lease where name like 'consumer:%' and until > now()",
            )
            .await;
    }
    assert_eq!(fixture.database.count(DEAD_LETTERS).await, 0);
    let counted = "select count(*) from events.failure where unfinished > 1 or failures > 0";
    assert_eq!(fixture.database.count(counted).await, 0);
}

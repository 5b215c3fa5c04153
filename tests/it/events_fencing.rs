//! Two relay processes and the lanes of one outbox.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tests::{
    Node, Role,
    backbone::{self, append, event, published},
    eventually,
};
use uuid::Uuid;

use crate::events_fixture::{Fixture, SOON};

const LANES: &str = "select count(*) from events.lease where name like 'lane:%' and until > now()";
const OWNERS: &str =
    "select count(distinct owner) from events.lease where name like 'lane:%' and until > now()";

#[tokio::test]
async fn a_relay_suspended_past_its_lease_is_fenced_off_and_order_is_kept() {
    let fixture = Fixture::start().await;
    let settings = backbone::settings(fixture.nats.url(), fixture.nats.monitoring_url());
    let first = Node::start(Role::Relay, &fixture.database, &settings).await;
    let second = Node::start(Role::Relay, &fixture.database, &settings).await;
    let owned_by = async |owners: i64| {
        eventually(SOON, || async {
            let seen = (
                fixture.database.count(LANES).await,
                fixture.database.count(OWNERS).await,
            );
            if seen == (16, owners) {
                Ok(())
            } else {
                Err(format!(
                    "{seen:?} instead of 16 lanes of {owners}\n{}{}",
                    first.log(),
                    second.log()
                ))
            }
        })
        .await;
    };
    owned_by(2).await;

    // A steady flow, so that the suspended relay has a batch in flight.
    let aggregates: Arc<Vec<Uuid>> = Arc::new((0..64).map(|_| Uuid::new_v4()).collect());
    let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let flow = tokio::spawn({
        let (aggregates, over, rounds, pool) = (
            aggregates.clone(),
            over.clone(),
            rounds.clone(),
            fixture.pool.clone(),
        );
        async move {
            while !over.load(Ordering::SeqCst) {
                let version = rounds.fetch_add(1, Ordering::SeqCst) + 1;
                let round: Vec<_> = aggregates.iter().map(|id| event(*id, version)).collect();
                append(&pool, &round).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    for (stopped, other) in [(&first, &second), (&second, &first), (&first, &second)] {
        stopped.suspend();
        owned_by(1).await;
        // The other relay has published beyond what the suspended one holds in memory.
        let reached = rounds.load(Ordering::SeqCst);
        eventually(SOON, || async {
            let waiting = format!("select count(*) from events.outbox where version <= {reached}");
            fixture.database.count(&waiting).await == 0
        })
        .await;
        stopped.resume();
        owned_by(2).await;
        assert!(!stopped.ended() && !other.ended());
    }
    over.store(true, Ordering::SeqCst);
    flow.await.unwrap();
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;

    let versions = rounds.load(Ordering::SeqCst);
    let published = published(&fixture.nats).await;
    assert_eq!(published.len() as i64, versions * aggregates.len() as i64);
    for aggregate in aggregates.iter() {
        let of_it = published.iter().filter(|event| event.aggregate == *aggregate);
        let in_order: Vec<_> = of_it.map(|event| event.version).collect();
        assert_eq!(in_order, (1..=versions).collect::<Vec<_>>());
    }
}

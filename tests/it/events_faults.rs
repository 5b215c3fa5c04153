//! During any fault of the broker, callers are not refused: events stay in the outbox and are published
//! afterwards.

use std::time::Duration;

use async_nats::jetstream;
use tests::{TcpFaultProxy, eventually};
use uuid::Uuid;

use crate::events_fixture::{Fixture, SOON, event};

/// Longer than the about 20 s after which a silent connection is closed.
const LATER: Duration = Duration::from_secs(60);

const BACKLOG: &str = "select count(*) from events.outbox";

/// A fixture whose broker and monitoring page are behind fault proxies.
async fn linked() -> (Fixture, TcpFaultProxy, TcpFaultProxy) {
    let nats = tests::Nats::start().await;
    let link = TcpFaultProxy::start(nats.address()).await;
    let monitoring = TcpFaultProxy::start(nats.monitoring_address()).await;
    let fixture = Fixture::on(nats, |settings| {
        // Nothing listens at the first server's address.
        settings.servers = vec![
            "nats://127.0.0.1:9".into(),
            format!("nats://{}", link.address()).into(),
        ];
        settings.monitor_url = Some(format!("http://{}", monitoring.address()).into());
        settings.relay.ack_timeout_ms = 1_000;
    })
    .await;
    (fixture, link, monitoring)
}

async fn everything_running(fixture: &mut Fixture) {
    fixture.publish();
    fixture.consume(|_| Ok(()));
}

#[tokio::test]
async fn a_full_stream_holds_events_in_the_outbox_until_there_is_space() {
    const ROUNDS: i64 = 60;
    let mut fixture = Fixture::with(|settings| settings.events_max_bytes = 1 << 20).await;
    everything_running(&mut fixture).await;
    eventually(SOON, || async { fixture.bus.status().borrow().then_some(()) }).await;
    let aggregates: Vec<_> = (0..50).map(|_| Uuid::new_v4()).collect();
    for version in 1..=ROUNDS {
        let round: Vec<_> = aggregates.iter().map(|id| event(*id, version)).collect();
        fixture.append_all(&round).await;
    }
    let total = ROUNDS * 50;
    let jetstream = jetstream::new(fixture.nats.client().await);
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    // The stream accepts messages up to its limit and no more.
    eventually(SOON, || async {
        let stored = stream.get_info().await.unwrap().state.messages as i64;
        let waiting = fixture.database.count(BACKLOG).await;
        if stored > 0 && stored + waiting == total && waiting > 0 {
            Ok(())
        } else {
            Err(format!("{stored} + {waiting}"))
        }
    })
    .await;
    assert!(
        *fixture.bus.status().borrow(),
        "a full broker serves consumers and is no reason to be unready"
    );

    // Frees space a little at a time, as retention does over days.
    eventually(LATER, || async {
        let taken = fixture.database.count("select count(*) from effect").await;
        let info = stream.get_info().await.unwrap();
        let done = info.state.first_sequence.max(taken.unsigned_abs() + 1);
        stream.purge().sequence(done).await.unwrap();
        if taken == total {
            Ok(())
        } else {
            Err(format!("{taken} of {total} took effect"))
        }
    })
    .await;
    assert_eq!(fixture.database.count(BACKLOG).await, 0);
    for aggregate in aggregates {
        assert_eq!(
            fixture.versions(aggregate).await,
            (1..=ROUNDS).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_slow_broker_slows_publishing_alone() {
    let (mut fixture, link, _monitoring) = linked().await;
    everything_running(&mut fixture).await;
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    fixture.effects(aggregate, 1).await;

    const DELAY: Duration = Duration::from_millis(300);
    link.delay(DELAY);
    // A caller that waited for the broker even once per commit would need 12 s.
    tokio::time::timeout(DELAY * 20, async {
        for version in 2..=41 {
            fixture.append(aggregate, [version]).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(fixture.effects(aggregate, 41).await, (1..=41).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_network_partition_holds_events_in_the_outbox_and_its_end_drains_them() {
    let (mut fixture, link, _monitoring) = linked().await;
    everything_running(&mut fixture).await;
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    fixture.effects(aggregate, 1).await;

    link.black_hole();
    for version in 2..=40 {
        fixture.append(aggregate, [version]).await;
    }
    // Longer than the relay waits for an acknowledgement, so that the state of its sent messages is unknown.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.database.count(BACKLOG).await, 39);
    assert_eq!(fixture.versions(aggregate).await, [1]);

    link.heal();
    fixture.append(aggregate, [41]).await;
    assert_eq!(fixture.effects(aggregate, 41).await, (1..=41).collect::<Vec<_>>());
    fixture.eventually_count(0, BACKLOG).await;
}

#[tokio::test]
async fn a_client_finds_a_broker_that_restarts_on_another_address() {
    let (mut fixture, link, monitoring) = linked().await;
    everything_running(&mut fixture).await;
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    fixture.effects(aggregate, 1).await;

    // The machine disappears: the client's connection is open and dead.
    link.stall_connections();
    fixture.nats.restart_elsewhere().await;
    link.point_to(fixture.nats.address());
    monitoring.point_to(fixture.nats.monitoring_address());
    fixture.append(aggregate, 2..=20).await;
    let versions = eventually(LATER, || async {
        let versions = fixture.versions(aggregate).await;
        if versions.len() == 20 {
            Ok(versions)
        } else {
            Err(format!("{versions:?}"))
        }
    })
    .await;
    assert_eq!(versions, (1..=20).collect::<Vec<_>>());
    fixture.eventually_count(0, BACKLOG).await;
}

//! Events that the broker stops delivering at its limit (`max_deliver`) are still handled.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_nats::jetstream::{
    self,
    consumer::{PullConsumer, pull},
};
use events::{Delivery, Event, HandlerError, Maintenance};
use futures_util::StreamExt as _;
use tests::eventually;
use uuid::Uuid;

use crate::events_fixture::{CONSUMER, Fixture, SOON};

/// A fixture whose only event has used up its deliveries: each process that received it died before it recorded
/// anything.
async fn beyond_max_deliver() -> (Fixture, Event) {
    let mut fixture = Fixture::with(|settings| settings.consumer.max_deliver = 6).await;
    fixture.publish();
    // The consumer registers itself, with the broker and in the database.
    let stop = fixture.consume(|_| Ok(()));
    fixture.append(Uuid::new_v4(), [1]).await;
    fixture.eventually_count(1, "select count(*) from effect").await;
    stop.cancel();
    let released = "select count(*) from events.lease where name like 'consumer:%' and until < now()";
    fixture.eventually_count(1, released).await;

    let event = fixture.append(Uuid::new_v4(), [13]).await.remove(0);
    let jetstream = jetstream::new(fixture.nats.client().await);
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream(CONSUMER, "EVENTS")
        .await
        .unwrap();
    let advisories = jetstream.get_stream("ADVISORIES").await.unwrap();
    let deaths = AtomicU32::new(0);
    eventually(SOON, || async {
        let batch: pull::Batch = consumer.fetch().max_messages(1).messages().await.unwrap();
        for message in batch.collect::<Vec<_>>().await {
            let nak = jetstream::AckKind::Nak(None);
            message.unwrap().ack_with(nak).await.unwrap();
            deaths.fetch_add(1, Ordering::SeqCst);
        }
        // The broker reports it at the pull after the last delivery.
        advisories.get_info().await.unwrap().state.messages == 1
    })
    .await;
    assert_eq!(deaths.load(Ordering::SeqCst), 6);
    (fixture, event)
}

fn maintenance(fixture: &mut Fixture) {
    let maintenance = Maintenance::new(&fixture.bus, &fixture.pool);
    fixture.spawn(|stop| maintenance.run(stop));
}

#[tokio::test]
async fn an_event_beyond_max_deliver_still_takes_effect() {
    let (mut fixture, event) = beyond_max_deliver().await;
    let handled = Arc::new(AtomicU32::new(0));
    let count = handled.clone();
    fixture.consume(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    maintenance(&mut fixture);
    assert_eq!(fixture.effects(event.meta.aggregate_id, 1).await, [13]);
    assert_eq!(handled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_event_beyond_max_deliver_becomes_a_dead_letter_when_it_fails() {
    let (mut fixture, event) = beyond_max_deliver().await;
    fixture.consume(|delivery: &Delivery| match delivery.version {
        13 => Err(HandlerError::permanent("ORDER_ODD", "the order is odd")),
        _ => Ok(()),
    });
    maintenance(&mut fixture);
    fixture
        .eventually_count(1, "select count(*) from events.dead_letter where state = 'open'")
        .await;
    let id = sqlx::query_scalar::<_, Uuid>("select event_id from events.dead_letter");
    let owner = fixture.database.owner().await;
    assert_eq!(id.fetch_one(&owner).await.unwrap(), event.id);
}

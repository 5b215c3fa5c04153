//! A message with headers that no client can read: each consumer that receives it keeps its own dead letter.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use events::{Consumer, Delivery, Handler, HandlerError};
use sqlx::PgConnection;
use tests::backbone::SUBJECT;
use uuid::Uuid;

use crate::{events_fixture::Fixture, events_foreign_messages::publish_raw};

/// Counts its deliveries.
struct Counting(Arc<AtomicUsize>);

impl Handler for Counting {
    async fn handle(&self, _: &mut PgConnection, _: &Delivery) -> Result<(), HandlerError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test]
async fn every_consumer_keeps_a_message_with_unreadable_headers_as_its_own_dead_letter() {
    let mut fixture = Fixture::start().await;
    fixture.publish();
    fixture.consume(|_| Ok(()));
    let aggregate = Uuid::new_v4();
    fixture.append(aggregate, [1]).await;
    fixture.effects(aggregate, 1).await;
    // In the first message only one unrelated header is unreadable; the second names no event, and its headers
    // grow when read.
    let id = Uuid::new_v4();
    let named = format!(
        "NATS/1.0\r\nce-id: {id}\r\nce-type: order.v1.OrderConfirmed\r\nce-facility: al-noor\r\nce-partitionkey: {id}\r\n\
         ce-sequence: 1\r\nno colon here\r\n\r\n"
    );
    publish_raw(&fixture, named.as_bytes()).await;
    let mut odd = b"NATS/1.0\r\nodd: ".to_vec();
    odd.extend([0xff; 40_000]);
    odd.extend(b"\r\n\r\n");
    publish_raw(&fixture, &odd).await;
    fixture.append(aggregate, [2]).await;
    assert_eq!(fixture.effects(aggregate, 2).await, [1, 2]);
    fixture
        .eventually_count(2, "select count(*) from events.dead_letter")
        .await;

    // A consumer that starts later and has received none of them yet.
    let handled = Arc::new(AtomicUsize::new(0));
    fixture.consume_as(Consumer::new(
        "order-second",
        &[SUBJECT],
        Counting(handled.clone()),
    ));
    let both = "select count(*) from events.dead_letter where consumer = 'order-second'
                and error_code = 'HEADERS_MALFORMED' and error_class = 'schema'";
    fixture.eventually_count(2, both).await;
    fixture.append(aggregate, [3]).await;
    assert_eq!(fixture.effects(aggregate, 3).await, [1, 2, 3]);
    fixture
        .eventually_count(
            3,
            "select count(*) from events.inbox where consumer = 'order-second'",
        )
        .await;
    assert_eq!(handled.load(Ordering::Relaxed), 3, "none of the unreadable ones");
    // The first consumer still has the same two dead letters: it recognizes the copies.
    let letters = "select count(*) from events.dead_letter";
    assert_eq!(fixture.database.count(letters).await, 4);
    let same = "select count(distinct event_id) from events.dead_letter";
    assert_eq!(fixture.database.count(same).await, 2);
}

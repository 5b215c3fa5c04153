//! A consumer that restarts receives everything behind its oldest unacknowledged message again, whether it took
//! effect or not.

use async_nats::jetstream::{self, consumer::PullConsumer};
use events::HandlerError;
use tests::eventually;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::events_fixture::{CONSUMER, Fixture, SOON};

/// Starts are counted to find a message that kills its process. An event that took effect has killed no process.
#[tokio::test]
async fn redeliveries_of_an_event_that_took_effect_do_not_count_as_crashes() {
    let mut fixture = Fixture::with(|settings| {
        // The first event waits for its retry during the whole scenario, and holds back the acknowledgement floor.
        settings.consumer.backoff_ms = 60_000;
        settings.consumer.max_backoff_ms = 60_000;
    })
    .await;
    fixture.publish();
    let (waiting, unrelated) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.append(waiting, [1]).await;
    fixture
        .eventually_count(0, "select count(*) from events.outbox")
        .await;
    fixture.append(unrelated, [1]).await;
    let client = async_nats::connect(fixture.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    for _ in 0..5 {
        let began = OffsetDateTime::now_utc();
        let stop = fixture.consume(move |delivery| {
            if delivery.aggregate_id == waiting {
                Err(HandlerError::transient("NOT_YET", "it is not there yet"))
            } else {
                Ok(())
            }
        });
        fixture.effects(unrelated, 1).await;
        eventually(SOON, || async {
            let mut consumer: PullConsumer = stream.get_consumer(CONSUMER).await.unwrap();
            let info = consumer.info().await.unwrap();
            let delivered = info.delivered.last_active.is_some_and(|at| at > began);
            if delivered && info.delivered.stream_sequence == 2 && info.num_ack_pending == 1 {
                Ok(())
            } else {
                Err(format!("{:?}, {} in hand", info.delivered, info.num_ack_pending))
            }
        })
        .await;
        stop.cancel();
        fixture
            .eventually_count(
                1,
                "select count(*) from events.lease where name like 'consumer:%' and until < now()",
            )
            .await;
    }
    assert_eq!(
        fixture
            .database
            .count("select count(*) from events.dead_letter")
            .await,
        0
    );
    fixture.append(unrelated, [2]).await;
    fixture.consume(|_| Ok(()));
    assert_eq!(fixture.effects(unrelated, 2).await, [1, 2]);
}

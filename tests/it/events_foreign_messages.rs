//! Messages of other publishers on Weft's subjects, and a locked database: neither blocks other events.

use std::time::Duration;

use proto::ops::v1 as ops;
use sqlx::Connection as _;
use tests::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use uuid::Uuid;

use crate::{
    events_dead_letter_fixture::DeadLetterFixture,
    events_fixture::{Fixture, event},
};

/// Publishes raw headers, which no client library would send.
pub(crate) async fn publish_raw(fixture: &Fixture, headers: &[u8]) {
    let mut socket = TcpStream::connect(fixture.nats.address()).await.unwrap();
    let subject = "evt.order.order.confirmed";
    let head = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nHPUB {subject} {n} {n}\r\n",
        n = headers.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(headers).await.unwrap();
    socket.write_all(b"\r\nPING\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"PONG") {
        let mut bytes = [0; 1024];
        let read = socket.read(&mut bytes).await.unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend(&bytes[..read]);
    }
}

#[tokio::test]
async fn messages_with_unreadable_headers_become_dead_letters_and_the_rest_is_consumed() {
    let fixture = DeadLetterFixture::start([]).await;
    let aggregate = Uuid::new_v4();
    fixture.backbone.append(aggregate, 1..=3).await;
    fixture.backbone.effects(aggregate, 3).await;
    let facility = "ce-facility: al-noor\r\n";
    for broken in [
        &b"NATS/1.0\r\nce-facility: al-noor\r\nce-id: \xff\xfe\r\n\r\n"[..],
        format!("NATS/1.0\r\n{facility}ce id: 7\r\n\r\n").as_bytes(),
        format!("NATS/1.0\r\n{facility}no colon here\r\n\r\n").as_bytes(),
    ] {
        publish_raw(&fixture.backbone, broken).await;
    }
    fixture.backbone.append(aggregate, 4..=9).await;
    assert_eq!(
        fixture.backbone.effects(aggregate, 9).await,
        (1..=9).collect::<Vec<_>>()
    );
    for letter in fixture.open(3).await {
        assert_eq!(letter.error_code, "HEADERS_MALFORMED");
        assert_eq!(letter.error_class(), ops::ErrorClass::Schema);
    }
    // A replay finds the same headers, and is answered.
    let letter = &fixture.open(3).await[0];
    fixture.replay(&letter.id).await;
    eventually(Duration::from_secs(20), || async {
        let replayed = fixture.get(&letter.id).await.dead_letter.unwrap();
        (replayed.replay_count == 1 && replayed.state() == ops::DeadLetterState::Open)
            .then_some(())
            .ok_or(format!("{replayed:?}"))
    })
    .await;
}

#[tokio::test]
async fn headers_of_any_length_and_with_control_characters_end_as_dead_letters() {
    let fixture = DeadLetterFixture::start([]).await;
    fixture.backbone.bus_is_ready().await;
    let long = format!(
        "NATS/1.0\r\nce-facility: al-noor\r\nce-type: {}\r\n\r\n",
        "x".repeat(60_000)
    );
    publish_raw(&fixture.backbone, long.as_bytes()).await;
    publish_raw(
        &fixture.backbone,
        b"NATS/1.0\r\nce-facility: al-noor\r\nce-id: a\x00b\x01\r\nce-sequence: 99999999999999999999\r\n\r\n",
    )
    .await;
    let aggregate = Uuid::new_v4();
    fixture.backbone.append(aggregate, 1..=3).await;
    assert_eq!(fixture.backbone.effects(aggregate, 3).await, [1, 2, 3]);
    for letter in fixture.open(2).await {
        assert_eq!(letter.error_code, "ENVELOPE_MALFORMED");
        assert!(letter.event_type.len() <= 300 && letter.error_message.len() <= 4_000);
    }
    fixture
        .backbone
        .eventually_count(0, "select count(*) from events.notice")
        .await;
}

#[tokio::test]
async fn a_lock_held_longer_than_all_attempts_delays_events_without_a_dead_letter() {
    let mut fixture = Fixture::with(|settings| {
        settings.consumer.attempts = 2;
        settings.consumer.concurrency = 1;
    })
    .await;
    fixture.publish();
    let owner = fixture.database.owner().await;
    sqlx::raw_sql(
        "create table slow (id int primary key); insert into slow values (1);
         grant select, update on slow to order_app;
         create function wait_for_slow() returns trigger language plpgsql as $$
         begin
             if new.version = 1 then
                 perform set_config('lock_timeout', '50ms', true);
                 perform from slow where id = 1 for update;
             end if;
             return new;
         end $$;
         create trigger wait_for_slow before insert on effect for each row execute function wait_for_slow();",
    )
    .execute(&owner)
    .await
    .unwrap();
    let mut holder = owner.acquire().await.unwrap();
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("select from slow where id = 1 for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    fixture.consume(|_| Ok(()));
    let (locked, free) = (Uuid::new_v4(), Uuid::new_v4());
    fixture.append_all(&[event(locked, 1), event(locked, 2)]).await;
    // With one concurrent handler: a waiting event does not occupy it.
    fixture.append(free, 2..=30).await;
    assert_eq!(fixture.effects(free, 29).await, (2..=30).collect::<Vec<_>>());
    // Two attempts and their backoff have long passed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.versions(locked).await, [0_i64; 0]);
    let counted = "select count(*) from events.dead_letter";
    assert_eq!(fixture.database.count(counted).await, 0);
    let failures = "select coalesce(sum(failures), 0)::bigint from events.failure";
    assert_eq!(fixture.database.count(failures).await, 0);
    lock.rollback().await.unwrap();
    assert_eq!(fixture.effects(locked, 2).await, [1, 2]);
}

//! Events that a database of an earlier build keeps when it is migrated.

use sqlx::{Executor as _, PgPool};
use tests::Postgres;

/// Six events of one aggregate, three of them published, and a copy for DEAD_LETTERS, as stored by a build from
/// before the partitioned outbox.
const BEFORE: &str = "
    insert into events.event_log (occurred_at, id, type, subject, facility, aggregate, aggregate_id, version, headers,
                                  body)
    select now() - interval '1 hour' + n * interval '1 s', gen_random_uuid(), 'order.v1.OrderConfirmed',
           'evt.order.order.confirmed', 'al-noor', 'order', '00000000-0000-4000-8000-000000000001', n,
           jsonb_build_object('traceparent', 'trace ' || n), convert_to('event ' || n, 'utf8')
    from generate_series(1, 6) n;
    insert into events.outbox (lane, event_id, occurred_at)
    select 1, id, occurred_at from events.event_log where version > 3 order by version;
    insert into events.outbox (lane, message_id, subject, headers, body)
    values (1, 'dead:1', 'dlq.order.recorder.permanent', '{\"weft-dead-letter\": \"1\"}', 'copy');
    insert into events.lease (name, owner, epoch, until) values ('lane:1', 'a relay', 1, now() + interval '1 hour')";

#[tokio::test]
async fn pending_events_from_before_the_partitioned_outbox_are_published_and_published_ones_can_be_republished()
 {
    let server = Postgres::shared().await;
    let database = server.database("order").await;
    database.migrate(&["chassis"]).await;
    database.migrate_some("events", ..6).await;
    let superuser = database.superuser().await;
    superuser.execute(BEFORE).await.unwrap();
    database.migrate_some("events", 6..).await;

    assert_eq!(
        waiting(&superuser).await,
        ["event 4", "event 5", "event 6", "copy"]
    );
    let traces: Vec<String> = sqlx::query_scalar("select traceparent from events.event_log order by version")
        .fetch_all(&superuser)
        .await
        .unwrap();
    assert_eq!(traces[5], "trace 6");
    let published =
        "select events.acknowledged(array(select id from events.outbox_page('a relay', '{1}', 100)))";
    superuser.execute(published).await.unwrap();
    assert!(waiting(&superuser).await.is_empty());
    assert_eq!(database.count("select count(*) from events.event_log").await, 6);

    let again = "select events.requeue(now() - interval '1 day', null)";
    assert_eq!(database.count(again).await, 6);
    let events: Vec<_> = (1..=6).map(|version| format!("event {version}")).collect();
    assert_eq!(waiting(&superuser).await, events);
}

/// The events that a relay would publish, in order.
async fn waiting(superuser: &PgPool) -> Vec<String> {
    let page = "select convert_from(body, 'utf8') from events.outbox_page('a relay', '{1}', 100)";
    sqlx::query_scalar(page).fetch_all(superuser).await.unwrap()
}

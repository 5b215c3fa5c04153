//! Deletion of old rows, and the rows that are kept.

use std::time::Duration;

use chassis::retention::{self, Rule};
use tests::{Database, Postgres, eventually};
use uuid::Uuid;

use crate::chassis_database::Fixture;

/// A database without a running service, which would delete rows by itself.
async fn migrated(sets: &[&str]) -> Database {
    let database = Postgres::shared().await.database("order").await;
    database.migrate(sets).await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn old_responses_are_pruned_for_every_facility_and_unfinished_requests_kept_longer() {
    let database = migrated(&["chassis"]).await;
    let (superuser, app) = (database.superuser().await, database.app().await);
    // Four pages of two rows; the numbers are ages in hours of the request and of its answer.
    for (facility, created, answered) in [
        ("F1", 30, Some(29)),
        ("F2", 29, None),
        ("F2", 28, None),
        ("F1", 27, Some(1)),
        ("F2", 26, Some(25)),
        ("F1", 31 * 24, None),
        ("F3", 1, Some(1)),
    ] {
        let insert = "insert into chassis.idempotency
                 (facility, method, request_id, request_hash, resource_id, created_at, answered_at, answer)
             values ($1, 'm', gen_random_uuid(), sha256(''), gen_random_uuid(), now() - $2 * interval '1 hour',
                 now() - $3 * interval '1 hour', case when $3 is not null then ''::bytea end)";
        sqlx::query(insert)
            .bind(facility)
            .bind(created)
            .bind(answered)
            .execute(&superuser)
            .await
            .unwrap();
    }
    let (mut after, mut deleted, mut pages) = (None::<String>, 0, 0);
    loop {
        let page =
            sqlx::query_as("select deleted, upto from chassis.prune_answers('24 hours', $1, 2)").bind(&after);
        let (gone, upto): (i64, Option<String>) = page.fetch_one(&app).await.unwrap();
        (deleted, pages) = (deleted + gone, pages + 1);
        match upto {
            Some(place) => after = Some(place),
            None => break,
        }
    }
    assert_eq!((deleted, pages), (3, 4));
    let kept: Vec<i64> = sqlx::query_scalar(
        "select (extract(epoch from now() - created_at) / 3600)::bigint from chassis.idempotency order by created_at",
    )
    .fetch_all(&superuser)
    .await
    .unwrap();
    // A recent answer is kept, however old its request is.
    assert_eq!(kept, [29, 28, 27, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_trail_is_kept_for_its_time_and_never_less_than_thirty_days() {
    let database = migrated(&["chassis"]).await;
    let (superuser, app) = (database.superuser().await, database.app().await);
    for days in [500, 400, 40, 20, 1] {
        let insert = "insert into chassis.audit (at, facility, subject, method, status)
             values (now() - $1 * interval '1 day', 'F1', 'clerk', 'm', 'OK')";
        sqlx::query(insert).bind(days).execute(&superuser).await.unwrap();
    }
    let prune = |kept: &'static str, at_most: i32| {
        let statement = "select deleted, upto from chassis.prune_audit($1::text::interval, null, $2)";
        let page = sqlx::query_as(statement).bind(kept).bind(at_most);
        page.fetch_one(&app)
    };
    let (deleted, upto): (i64, Option<String>) = prune("450 days", 1).await.unwrap();
    assert_eq!((deleted, upto.is_some()), (1, true), "there may be more");
    let (deleted, upto): (i64, Option<String>) = prune("450 days", 10).await.unwrap();
    assert_eq!((deleted, upto), (0, None));
    // A deletion with the service's own role leaves the last thirty days.
    let (deleted, _): (i64, Option<String>) = prune("0 days", 10).await.unwrap();
    assert_eq!(deleted, 2);
}

/// The service itself deletes old rows, rule by rule.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_process_deletes_old_rows_and_a_failing_rule_blocks_no_other() {
    let fixture = Fixture::new().await;
    let insert = "insert into chassis.audit (at, facility, subject, method, status)
         values (now() - interval '500 days', 'F1', 'clerk', 'm', 'OK'), (now(), 'F1', 'clerk', 'm', 'OK')";
    sqlx::query(insert).execute(&fixture.owner).await.unwrap();
    let rule = |function| Rule {
        table: "chassis.audit",
        function,
        keep: Duration::from_secs(400 * 86_400),
    };
    let rules = vec![rule("chassis.no_such_function"), rule("chassis.prune_audit")];
    retention::start(
        &fixture.process.tasks,
        fixture.database.pool(),
        Duration::from_millis(20),
        rules,
    );
    eventually(Duration::from_secs(10), || async {
        let left: i64 = sqlx::query_scalar("select count(*) from chassis.audit")
            .fetch_one(&fixture.owner)
            .await
            .unwrap();
        left == 1
    })
    .await;
    fixture.process.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_that_ended_long_ago_are_deleted_with_their_steps_and_open_ones_kept() {
    let database = migrated(&["chassis", "events", "order"]).await;
    let superuser = database.superuser().await;
    // Three sagas of 500 days ago: one ended then, one still open, one ended recently. One saga of today.
    for (number, state, updated) in [
        (1, "completed", 450),
        (2, "stuck", 450),
        (3, "completed", 10),
        (4, "completed", 0),
    ] {
        let order = Uuid::new_v4();
        let saga = format!("01930000-0000-7000-8000-{number:012}")
            .parse::<Uuid>()
            .unwrap();
        let age = if number == 4 { 0 } else { 500 };
        let insert = "with placed as (
                 insert into orders.placed_order (id, facility, reference, patient_id, currency, gross, patient_share,
                     payer_net, other_payer, payer_id, immediate, payment_method, state, saga_id, busy, version,
                     created_at, updated_at)
                 values ($1, 'F1', '', '', 'AED', 100, 100, 0, 0, '', true, '', 'settled', $2, false, 1, now(), now())
             ), begun as (
                 insert into orders.saga (id, facility, kind, order_id, plan, position, state, version, wake_at,
                     deadline_at, begun_at, created_at, updated_at)
                 values ($2, 'F1', 'place_order', $1, '{}', 0, $3, 1, case when $3 = 'stuck' then now() end, now(),
                     now(), now() - $4 * interval '1 day', now() - $5 * interval '1 day')
             )
             insert into orders.saga_step (saga_id, step, compensation, facility, state, result, attempts, begun_at, ended_at)
             values ($2, 'authorize_payment', false, 'F1', 'succeeded', '', 1, now(), now())";
        let inserted = sqlx::query(insert)
            .bind(order)
            .bind(saga)
            .bind(state)
            .bind(age)
            .bind(updated);
        inserted.execute(&superuser).await.unwrap();
    }
    let app = database.app().await;
    let prune = |after: Option<&'static str>, at_most: i32| {
        let page = sqlx::query_as("select deleted, upto from orders.prune_sagas('400 days', $1, $2)");
        page.bind(after).bind(at_most).fetch_one(&app)
    };
    let (deleted, upto): (i64, Option<String>) = prune(None, 2).await.unwrap();
    let second = "01930000-0000-7000-8000-000000000002";
    assert_eq!((deleted, upto.as_deref()), (1, Some(second)));
    let (deleted, upto): (i64, Option<String>) = prune(Some(second), 2).await.unwrap();
    assert_eq!((deleted, upto), (0, None), "a saga of today ends the sweep");
    assert_eq!(database.count("select count(*) from orders.saga").await, 3);
    assert_eq!(database.count("select count(*) from orders.saga_step").await, 3);
    assert_eq!(
        database.count("select count(*) from orders.placed_order").await,
        4
    );
}

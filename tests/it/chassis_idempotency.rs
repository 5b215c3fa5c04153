//! A request that is sent more than once has one effect and one answer.

use std::time::Duration;

use chassis::{
    Facility,
    idempotency::{self, Error, Key, KeyState},
};
use proto::order::v1::{GetOrderRequest, PlaceOrderRequest, PlaceOrderResponse};
use tests::eventually;
use tokio::time::Instant;
use uuid::Uuid;

use crate::chassis_database::Fixture;

const METHOD: &str = "order.v1.OrderService/PlaceOrder";

fn request(reference: &str) -> PlaceOrderRequest {
    let request_id = "6f1c9a4e-2d1b-4c55-9a65-0b1f6d1f8a11".to_owned();
    PlaceOrderRequest {
        request_id,
        reference: reference.to_owned(),
        ..PlaceOrderRequest::default()
    }
}

fn key(reference: &str) -> Key {
    let request = request(reference);
    Key::new(METHOD, &request.request_id, &request).unwrap()
}

fn facility(name: &str) -> Facility {
    Facility::new(name).unwrap()
}

/// Long enough that no waiter checks whether the first request still runs.
const AGES: Duration = Duration::from_secs(60);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Claims the key and, if it is new, stores an answer. Returns the answer and whether the work was done here.
async fn once(fixture: &Fixture, reference: &str) -> Result<(Vec<u8>, bool), Error> {
    let (facility, key, id) = (facility("F1"), key(reference), Uuid::new_v4());
    let mut tx = fixture.database.begin(&facility).await?;
    match idempotency::acquire(&mut tx, &facility, &key, id).await? {
        KeyState::Completed(answer) => Ok((answer, false)),
        KeyState::InProgress { .. } => {
            tx.rollback().await?;
            let answer =
                idempotency::wait_for_response(&fixture.database, &facility, &key, AGES, soon()).await?;
            Ok((answer.expect("the first one answers in time"), false))
        }
        KeyState::New => {
            tx.commit().await?;
            tokio::task::yield_now().await;
            let mut tx = fixture.database.begin(&facility).await?;
            let order = proto::order::v1::Order {
                id: id.to_string(),
                ..proto::order::v1::Order::default()
            };
            let response = PlaceOrderResponse { order: Some(order) };
            let answer = idempotency::store_response(&mut tx, &facility, &key, &response).await?;
            tx.commit().await?;
            idempotency::notify_waiters(&fixture.database, &facility, &key);
            Ok((answer, true))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_equal_requests_at_once_have_one_effect_and_one_answer() {
    let fixture = Fixture::new().await;
    let answers = futures_util::future::join_all((0..32).map(|_| once(&fixture, "A"))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|(_, worked)| *worked).count(), 1);
    assert!(answers.iter().all(|(answer, _)| answer == &answers[0].0));

    let replay = idempotency::replay::<PlaceOrderResponse>(&answers[0].0).unwrap();
    assert_eq!(replay.metadata().get(idempotency::REPLAYED).unwrap(), "true");
    assert!(replay.into_inner().order.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_another_request_is_refused() {
    let fixture = Fixture::new().await;
    once(&fixture, "A").await.unwrap();
    let refused = once(&fixture, "B").await.unwrap_err();
    assert!(matches!(refused, Error::KeyReused));
    assert_eq!(
        tonic::Status::from(refused).code(),
        tonic::Code::FailedPrecondition
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_facility_and_one_method() {
    let fixture = Fixture::new().await;
    once(&fixture, "A").await.unwrap();
    let other = facility("F2");
    let mut tx = fixture.database.begin(&other).await.unwrap();
    let claim = idempotency::acquire(&mut tx, &other, &key("B"), Uuid::new_v4())
        .await
        .unwrap();
    assert_eq!(claim, KeyState::New);
    tx.commit().await.unwrap();

    let ours = facility("F1");
    let mut tx = fixture.database.begin(&ours).await.unwrap();
    let get = GetOrderRequest::default();
    let elsewhere = Key::new("order.v1.OrderService/CancelOrder", &request("").request_id, &get).unwrap();
    let claim = idempotency::acquire(&mut tx, &ours, &elsewhere, Uuid::new_v4())
        .await
        .unwrap();
    assert_eq!(claim, KeyState::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_rolls_back_leaves_the_key_free_and_one_that_commits_keeps_it() {
    let fixture = Fixture::new().await;
    let (facility, key) = (facility("F1"), key("A"));
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());

    let mut tx = fixture.database.begin(&facility).await.unwrap();
    assert_eq!(
        idempotency::acquire(&mut tx, &facility, &key, first)
            .await
            .unwrap(),
        KeyState::New
    );
    tx.rollback().await.unwrap();

    let mut tx = fixture.database.begin(&facility).await.unwrap();
    assert_eq!(
        idempotency::acquire(&mut tx, &facility, &key, second)
            .await
            .unwrap(),
        KeyState::New
    );
    // A request that arrives now waits for this transaction before it gets its answer.
    let late = async {
        let mut tx = fixture.database.begin(&facility).await.unwrap();
        idempotency::acquire(&mut tx, &facility, &key, Uuid::new_v4())
            .await
            .unwrap()
    };
    let commit = async {
        tokio::task::yield_now().await;
        tx.commit().await.unwrap();
    };
    let (claim, ()) = tokio::join!(late, commit);
    assert_eq!(claim, KeyState::InProgress { resource_id: second });

    let none = idempotency::wait_for_response(&fixture.database, &facility, &key, AGES, Instant::now())
        .await
        .unwrap();
    assert_eq!(none, None, "waiting ends with the deadline");
}

/// The database counts the reads of the key, by a policy that has a side effect.
const COUNT_READS: [&str; 3] = [
    "create sequence chassis.reads",
    "grant usage on sequence chassis.reads to public",
    "create policy counted on chassis.idempotency as restrictive for select to public
     using (nextval('chassis.reads') > 0)",
];

#[tokio::test(flavor = "multi_thread")]
async fn waiters_for_one_key_share_their_database_reads() {
    let fixture = Fixture::new().await;
    let (facility, key) = (facility("F1"), key("A"));
    let mut tx = fixture.database.begin(&facility).await.unwrap();
    idempotency::acquire(&mut tx, &facility, &key, Uuid::new_v4())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    for statement in COUNT_READS {
        sqlx::query(statement).execute(&fixture.owner).await.unwrap();
    }
    let reads = async || -> i64 {
        sqlx::query_scalar("select last_value from chassis.reads")
            .fetch_one(&fixture.owner)
            .await
            .unwrap()
    };
    let began = Instant::now();
    let (database, owned) = (&fixture.database, (&facility, &key));
    let waiting: Vec<_> = (0..200)
        .map(|n| {
            // Some waiters time out sooner than others, including the one that reads.
            let deadline = if n % 2 == 0 {
                began + Duration::from_millis(100 + n)
            } else {
                began + Duration::from_secs(120)
            };
            idempotency::wait_for_response(database, owned.0, owned.1, AGES, deadline)
        })
        .collect();
    let answered = async {
        // Long enough for each of them to have read several times.
        eventually(Duration::from_secs(60), || async { reads().await >= 10 }).await;
        let asked = reads().await;
        let most = 8 + began.elapsed().as_millis() as i64 / 200;
        assert!(asked <= most, "{asked} reads, at most {most} for one");
        // Another process stores the answer; this process is not notified.
        let answer = "update chassis.idempotency set answer = 'abc', answered_at = now()";
        sqlx::query(answer).execute(&fixture.owner).await.unwrap();
        asked
    };
    let (answers, asked) = tokio::join!(futures_util::future::join_all(waiting), answered);
    for (n, answer) in answers.into_iter().enumerate() {
        let expected = (n % 2 == 1).then(|| b"abc".to_vec());
        assert_eq!(answer.unwrap(), expected, "{n}");
    }
    let after = reads().await - asked;
    let most = 8 + began.elapsed().as_millis() as i64 / 200 - asked;
    assert!(
        after <= most.max(2),
        "{after} reads after the answer, at most {most}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_waiter_at_a_time_checks_whether_the_first_request_still_runs() {
    let fixture = Fixture::new().await;
    let (facility, key) = (facility("F1"), key("A"));
    let mut tx = fixture.database.begin(&facility).await.unwrap();
    idempotency::acquire(&mut tx, &facility, &key, Uuid::new_v4())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let pause = Duration::from_millis(50);
    let began = Instant::now();
    let looks = std::sync::atomic::AtomicU32::new(0);
    let waiting = (0..100).map(|_| async {
        loop {
            let end = began + Duration::from_secs(2);
            let found = idempotency::wait_for_response(&fixture.database, &facility, &key, pause, end).await;
            assert_eq!(found.unwrap(), None);
            if Instant::now() >= end {
                return;
            }
            looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    futures_util::future::join_all(waiting).await;
    // One read for each interval, and not one for each waiter and interval.
    let looks = looks.into_inner();
    let most = began.elapsed().as_millis() / pause.as_millis() + 1;
    assert!(
        looks > 1 && u128::from(looks) <= most,
        "{looks} looks, at most {most}"
    );
}

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::*;

/// What a test's item does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behavior {
    Succeed,
    Fail,
    Panic,
    Outage,
}

/// Why a test's transaction fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Failure(&'static str);

struct Item {
    aggregate: Uuid,
    behavior: Behavior,
}

/// Records the sizes of committed transactions, and lets a test block them.
#[derive(Clone)]
struct Store {
    gate: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
    committed: Arc<Mutex<Vec<Vec<Uuid>>>>,
}

impl Store {
    fn open() -> Store {
        Store::with(Semaphore::MAX_PERMITS)
    }

    /// The first transaction starts; all wait until [`Store::unblock`].
    fn blocked() -> Store {
        Store::with(0)
    }

    fn with(permits: usize) -> Store {
        Store {
            gate: Arc::new(Semaphore::new(permits)),
            begun: Arc::default(),
            committed: Arc::default(),
        }
    }

    fn unblock(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    fn sizes(&self) -> Vec<usize> {
        self.committed.lock().unwrap().iter().map(Vec::len).collect()
    }
}

impl Command for Store {
    type Item = Item;
    type Outcome = Uuid;
    type Error = Failure;

    fn aggregate(&self, item: &Item) -> Uuid {
        item.aggregate
    }

    fn is_outage(&self, error: &Failure) -> bool {
        *error == Failure("an outage")
    }

    async fn execute(&self, items: &[Arc<Item>]) -> Result<Vec<Uuid>, Failure> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        assert!(
            items.iter().all(|item| item.behavior != Behavior::Panic),
            "an item panics"
        );
        if items.iter().any(|item| item.behavior == Behavior::Fail) {
            return Err(Failure("an item fails"));
        }
        if items.iter().any(|item| item.behavior == Behavior::Outage) {
            return Err(Failure("an outage"));
        }
        let aggregates: Vec<_> = items.iter().map(|item| item.aggregate).collect();
        self.committed.lock().unwrap().push(aggregates.clone());
        Ok(aggregates)
    }
}

fn item(number: u128, behavior: Behavior) -> Item {
    Item {
        aggregate: Uuid::from_u128(number),
        behavior,
    }
}

fn batcher(store: &Store, limits: Limits) -> Batcher<Store> {
    Batcher::new(store.clone(), limits, Tasks::new(CancellationToken::new()))
}

type Submitted = Result<Uuid, SubmitError<Failure>>;

/// Submits them in order without waiting for outcomes.
async fn submit_all(
    batcher: &Batcher<Store>,
    items: impl IntoIterator<Item = Item>,
) -> JoinSet<(Uuid, Submitted)> {
    let mut submitted = JoinSet::new();
    for item in items {
        let batcher = batcher.clone();
        let aggregate = item.aggregate;
        submitted.spawn(async move { (aggregate, batcher.submit(item, None).await) });
        tokio::task::yield_now().await;
    }
    submitted
}

#[tokio::test]
async fn a_single_item_does_not_wait() {
    let store = Store::open();
    let batcher = batcher(&store, Limits::default());
    assert_eq!(
        batcher.submit(item(1, Behavior::Succeed), None).await.unwrap(),
        Uuid::from_u128(1)
    );
    assert_eq!(store.sizes(), [1]);
}

#[tokio::test]
async fn items_queued_during_a_transaction_share_the_next_one_sorted_by_aggregate() {
    let store = Store::blocked();
    let batcher = batcher(&store, Limits::default());
    let submitted = submit_all(
        &batcher,
        (0..33).rev().map(|number| item(number, Behavior::Succeed)),
    )
    .await;
    store.unblock();
    for (aggregate, ended) in submitted.join_all().await {
        assert_eq!(ended.unwrap(), aggregate);
    }
    assert_eq!(store.sizes(), [1, 32]);
    assert!(store.committed.lock().unwrap()[1].is_sorted());
}

#[tokio::test(start_paused = true)]
async fn under_load_a_transaction_waits_for_more_items() {
    let store = Store::blocked();
    let batcher = batcher(&store, Limits::default());
    let mut submitted =
        vec![submit_all(&batcher, (0..5).map(|number| item(number, Behavior::Succeed))).await];
    store.unblock();
    let begun = Instant::now();
    for number in 5..8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        submitted.push(submit_all(&batcher, [item(number, Behavior::Succeed)]).await);
    }
    for submitted in submitted {
        submitted.join_all().await;
    }
    assert_eq!(store.sizes(), [1, 7]);
    assert!(begun.elapsed() < Duration::from_millis(8));

    // The next single item still counts as load; the one after it does not.
    batcher.submit(item(8, Behavior::Succeed), None).await.unwrap();
    let begun = Instant::now();
    batcher.submit(item(9, Behavior::Succeed), None).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(store.sizes(), [1, 7, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_more_items_is_bounded() {
    let store = Store::blocked();
    let batcher = batcher(&store, Limits::default());
    let mut submitted =
        vec![submit_all(&batcher, (0..5).map(|number| item(number, Behavior::Succeed))).await];
    store.unblock();
    for number in 5..35 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        submitted.push(submit_all(&batcher, [item(number, Behavior::Succeed)]).await);
    }
    for submitted in submitted {
        submitted.join_all().await;
    }
    let sizes = store.sizes();
    assert!(sizes.iter().all(|size| *size <= 14), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 35);
}

#[tokio::test]
async fn a_second_transaction_starts_for_a_full_batch_only() {
    let limits = Limits {
        items: 4,
        ..Limits::default()
    };
    let store = Store::blocked();
    let batcher = batcher(&store, limits);
    let mut submitted = submit_all(&batcher, (0..4).map(|number| item(number, Behavior::Succeed))).await;
    assert_eq!(store.begun.load(Ordering::SeqCst), 1);
    let more = submit_all(&batcher, [item(4, Behavior::Succeed)]).await;
    assert_eq!(store.begun.load(Ordering::SeqCst), 2);
    store.unblock();
    while let Some(ended) = submitted.join_next().await {
        ended.unwrap().1.unwrap();
    }
    more.join_all().await;
    let mut sizes = store.sizes();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 4]);
}

#[tokio::test]
async fn two_items_of_one_aggregate_are_executed_one_after_the_other() {
    let store = Store::blocked();
    let limits = Limits {
        items: 2,
        ..Limits::default()
    };
    let batcher = batcher(&store, limits);
    let items = [1, 1, 1, 2].map(|number| item(number, Behavior::Succeed));
    let submitted = submit_all(&batcher, items).await;
    store.unblock();
    for (_, ended) in submitted.join_all().await {
        ended.unwrap();
    }
    let committed = store.committed.lock().unwrap().clone();
    for batch in &committed {
        let distinct: HashSet<_> = batch.iter().collect();
        assert_eq!(distinct.len(), batch.len(), "{committed:?}");
    }
    assert_eq!(committed.iter().flatten().count(), 4);
}

#[tokio::test]
async fn of_64_items_only_the_one_that_fails_or_panics_fails() {
    for behavior in [Behavior::Fail, Behavior::Panic] {
        let store = Store::blocked();
        let batcher = batcher(&store, Limits::default());
        let items =
            (0..65).map(|number| item(number, if number == 40 { behavior } else { Behavior::Succeed }));
        let submitted = submit_all(&batcher, items).await;
        store.unblock();
        for (aggregate, ended) in submitted.join_all().await {
            match (aggregate == Uuid::from_u128(40), ended) {
                (false, Ok(_)) => {}
                (true, Err(SubmitError::Failed(Failure("an item fails")))) if behavior == Behavior::Fail => {}
                (true, Err(SubmitError::Panicked)) if behavior == Behavior::Panic => {}
                (_, ended) => panic!("{aggregate}: {ended:?}"),
            }
        }
        // 1 + 64, and the halves on the way to the one: two for each of the six levels.
        assert!(store.begun.load(Ordering::SeqCst) <= 2 + 12);
    }
}

#[tokio::test]
async fn in_an_outage_all_fail_at_once() {
    let store = Store::blocked();
    let batcher = batcher(&store, Limits::default());
    let items = [
        Behavior::Succeed,
        Behavior::Succeed,
        Behavior::Outage,
        Behavior::Succeed,
    ];
    let items = (0..4).map(|number| item(number, items[number as usize]));
    let submitted = submit_all(&batcher, items).await;
    store.unblock();
    let ended = submitted.join_all().await;
    let count = |matches: fn(&Submitted) -> bool| ended.iter().filter(|(_, ended)| matches(ended)).count();
    // The first was in a transaction of its own.
    assert_eq!(count(|ended| ended.is_ok()), 1);
    assert_eq!(
        count(|ended| matches!(ended, Err(SubmitError::Failed(Failure("an outage"))))),
        1
    );
    assert_eq!(count(|ended| matches!(ended, Err(SubmitError::Outage))), 2);
    assert_eq!(store.begun.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_expired_or_abandoned_item_is_not_executed() {
    let store = Store::blocked();
    let batcher = batcher(&store, Limits::default());
    let first = submit_all(&batcher, [item(1, Behavior::Succeed)]).await;
    let deadline = Instant::now() + Duration::from_secs(1);
    let (waits, b) = (batcher.clone(), batcher.clone());
    let late = tokio::spawn(async move { waits.submit(item(2, Behavior::Succeed), Some(deadline)).await });
    let unwanted = tokio::spawn(async move { b.submit(item(3, Behavior::Succeed), None).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    unwanted.abort();
    let last = submit_all(&batcher, [item(4, Behavior::Succeed)]).await;
    store.unblock();
    assert!(matches!(late.await.unwrap(), Err(SubmitError::Expired)));
    first.join_all().await;
    last.join_all().await;
    let committed = store.committed.lock().unwrap().clone();
    assert_eq!(committed, [[Uuid::from_u128(1)], [Uuid::from_u128(4)]]);
}

#[tokio::test]
async fn a_full_queue_rejects_items_without_executing_them() {
    let limits = Limits {
        waiting: 2,
        ..Limits::default()
    };
    let store = Store::blocked();
    let batcher = batcher(&store, limits);
    let submitted = submit_all(&batcher, (0..3).map(|number| item(number, Behavior::Succeed))).await;
    let refused = batcher.submit(item(9, Behavior::Succeed), None).await;
    assert!(matches!(refused, Err(SubmitError::Full)));
    store.unblock();
    submitted.join_all().await;
    assert_eq!(store.committed.lock().unwrap().iter().flatten().count(), 3);
}

#[tokio::test]
async fn the_drain_waits_for_the_running_transaction_after_its_callers_are_gone() {
    let store = Store::blocked();
    let tasks = Tasks::new(CancellationToken::new());
    let batcher = Batcher::new(store.clone(), Limits::default(), tasks.clone());
    let mut submitted = submit_all(&batcher, (0..8).map(|number| item(number, Behavior::Succeed))).await;
    // The first is running: it is finished although its caller is gone.
    submitted.abort_all();
    while submitted.join_next().await.is_some() {}
    store.unblock();
    assert!(tasks.finished_within(Duration::from_secs(10)).await);
    assert_eq!(store.sizes(), [1]);
}

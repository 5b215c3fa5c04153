//! Waits for the response of a request that is in progress.
//!
//! Of all calls in a process that wait for the same response, one polls the database. It shares the response with
//! the others; when its own time is over, the next one continues to poll. The number of queries is independent of
//! the number of waiters: at once, after 10 ms, and then at growing intervals up to 200 ms.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{self, Notify},
    time::{Instant, sleep_until, timeout_at},
};

use super::Key;
use crate::{Facility, postgres::Database};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// The responses that calls of this process wait for now.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<HashMap<Arc<RequestKey>, Weak<Pending>>>);

/// Identifies the request.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RequestKey {
    facility: Facility,
    method: String,
    request_id: uuid::Uuid,
}

/// One awaited response.
#[derive(Debug)]
struct Pending {
    key: Arc<RequestKey>,
    /// Notified when this process has stored the response.
    response_stored: Notify,
    /// Locked by the call that polls.
    poll: sync::Mutex<Poll>,
}

#[derive(Debug)]
struct Poll {
    found: Option<Vec<u8>>,
    pause: Duration,
    next: Instant,
}

/// Wakes the calls of this process in [`wait_for_response`]; other processes find the response by polling.
pub fn notify_waiters(database: &Database, facility: &Facility, key: &Key) {
    let id = RequestKey::new(facility, key);
    let all = database.waiters().lock();
    if let Some(pending) = all.get(&id).and_then(Weak::upgrade) {
        // The notification is kept if no call is listening at this moment.
        pending.response_stored.notify_one();
    }
}

/// Waits for the first request's response, at most until `deadline`. Returns `None` when there is none by then.
/// After each `pause` it also returns `None` to the one call that polls, so that this call can check whether the
/// request is still in progress; it then waits again behind the others.
///
/// # Errors
/// When the database fails.
pub async fn wait_for_response(
    database: &Database,
    facility: &Facility,
    key: &Key,
    pause: Duration,
    deadline: Instant,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let waiter = Waiter::new(database.waiters(), RequestKey::new(facility, key));
    let pending = &waiter.pending;
    let Ok(mut poll) = timeout_at(deadline, pending.poll.lock()).await else {
        return Ok(None);
    };
    let pause_ends = deadline.min(Instant::now() + pause);
    loop {
        if poll.found.is_some() {
            return Ok(poll.found.clone());
        }
        let woken = async {
            tokio::select! {
                () = pending.response_stored.notified() => {}
                () = sleep_until(poll.next) => {}
            }
        };
        if timeout_at(pause_ends, woken).await.is_err() {
            return Ok(None);
        }
        // Also after an error, so that the waiting calls do not all query at once.
        poll.next = Instant::now() + poll.pause;
        poll.pause = (poll.pause * 2).min(MAX_PAUSE);
        poll.found = find_response(database, facility, key).await?;
    }
}

async fn find_response(
    database: &Database,
    facility: &Facility,
    key: &Key,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let mut tx = database.begin(facility).await?;
    let found = sqlx::query_scalar!(
        "select answer from chassis.idempotency where facility = $1 and method = $2 and request_id = $3",
        facility.as_str(),
        key.method,
        key.request_id,
    )
    .fetch_optional(&mut *tx)
    .await?;
    tx.rollback().await?;
    Ok(found.flatten())
}

impl RequestKey {
    fn new(facility: &Facility, key: &Key) -> RequestKey {
        RequestKey {
            facility: facility.clone(),
            method: key.method.clone(),
            request_id: key.request_id,
        }
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<RequestKey>, Weak<Pending>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's reference to an awaited response; the last one removes the entry.
struct Waiter<'a> {
    waiters: &'a Waiters,
    pending: Arc<Pending>,
}

impl Waiter<'_> {
    fn new(waiters: &Waiters, id: RequestKey) -> Waiter<'_> {
        let mut all = waiters.lock();
        let known = all.get(&id).and_then(Weak::upgrade);
        let pending = known.unwrap_or_else(|| {
            let id = Arc::new(id);
            let poll = Poll {
                found: None,
                pause: FIRST_PAUSE,
                next: Instant::now(),
            };
            let pending = Arc::new(Pending {
                key: id.clone(),
                response_stored: Notify::new(),
                poll: sync::Mutex::new(poll),
            });
            all.insert(id, Arc::downgrade(&pending));
            pending
        });
        drop(all);
        Waiter { waiters, pending }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut all = self.waiters.lock();
        // References are cloned only under this lock.
        if Arc::strong_count(&self.pending) == 1 {
            all.remove(&self.pending.key);
        }
    }
}

//! Waits for the response of a request that is in progress.
//!
//! Of all calls in a process that wait for the same response, one polls the database. It shares the response with
//! the others; when its own time is over, the next one continues to poll. The number of queries is independent of
//! the number of waiters: at once, after 10 ms, and then at growing intervals up to 200 ms.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::Key;
use crate::{
    Facility,
    postgres::Database,
    waiters::{RequestKey, Waiter},
};

const MAX_PAUSE: Duration = Duration::from_millis(200);

/// Wakes the calls of this process in [`wait_for_response`]; other processes find the response by polling.
pub fn notify_waiters(database: &Database, facility: &Facility, key: &Key) {
    database.waiters().notify(&request_key(facility, key));
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
    let waiter = Waiter::new(database.waiters(), request_key(facility, key));
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

fn request_key(facility: &Facility, key: &Key) -> RequestKey {
    RequestKey {
        facility: facility.clone(),
        method: key.method.clone(),
        request_id: key.request_id,
    }
}

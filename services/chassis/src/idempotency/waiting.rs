//! Waiting for the answer of a request that is being carried out.
//!
//! Of all the calls in a process that wait for the same answer, one asks the database; it hands the answer, or its turn
//! when its own time is over, to the others. However many wait, the database is asked as often as for one: at once, then
//! after 10 ms, and then ever more rarely, down to five times a second.

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
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The answers that calls of this process wait for. Holds those that somebody waits for now.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<HashMap<Arc<Wanted>, Weak<Answer>>>);

/// What an answer belongs to.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Wanted {
    facility: Facility,
    method: String,
    request_id: uuid::Uuid,
}

/// One answer that is waited for.
#[derive(Debug)]
struct Answer {
    wanted: Arc<Wanted>,
    /// Rung when this process has stored it.
    announced: Notify,
    /// Held by the call that asks for it.
    turn: sync::Mutex<Turn>,
}

#[derive(Debug)]
struct Turn {
    found: Option<Vec<u8>>,
    pause: Duration,
    next: Instant,
}

/// Wakes those in this process who [`wait`] for the answer; others find it by asking.
pub fn announce(database: &Database, facility: &Facility, key: &Key) {
    let wanted = Wanted::of(facility, key);
    let all = database.waiting().lock();
    if let Some(answer) = all.get(&wanted).and_then(Weak::upgrade) {
        // Kept when nobody listens at this moment.
        answer.announced.notify_one();
    }
}

/// Waits for the first request's answer, at most until `deadline`. `None` when there is none by then, and also, for one
/// call of those that wait at a time, after each `pause`: it is to see whether the request is still being carried out, and
/// waits again behind the others.
///
/// # Errors
/// When the database fails.
pub async fn wait(
    database: &Database,
    facility: &Facility,
    key: &Key,
    pause: Duration,
    deadline: Instant,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let awaited = Awaited::new(database.waiting(), Wanted::of(facility, key));
    let answer = &awaited.answer;
    let Ok(mut turn) = timeout_at(deadline, answer.turn.lock()).await else {
        return Ok(None);
    };
    let give_up = deadline.min(Instant::now() + pause);
    loop {
        if turn.found.is_some() {
            return Ok(turn.found.clone());
        }
        let woken = async {
            tokio::select! {
                () = answer.announced.notified() => {}
                () = sleep_until(turn.next) => {}
            }
        };
        if timeout_at(give_up, woken).await.is_err() {
            return Ok(None);
        }
        // Also when it fails: those who wait do not all ask at once.
        turn.next = Instant::now() + turn.pause;
        turn.pause = (turn.pause * 2).min(LONGEST_PAUSE);
        turn.found = stored(database, facility, key).await?;
    }
}

async fn stored(database: &Database, facility: &Facility, key: &Key) -> Result<Option<Vec<u8>>, sqlx::Error> {
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

impl Wanted {
    fn of(facility: &Facility, key: &Key) -> Wanted {
        Wanted {
            facility: facility.clone(),
            method: key.method.clone(),
            request_id: key.request_id,
        }
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<Wanted>, Weak<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's share in an answer; the last one to go forgets it.
struct Awaited<'a> {
    waiting: &'a Waiting,
    answer: Arc<Answer>,
}

impl Awaited<'_> {
    fn new(waiting: &Waiting, wanted: Wanted) -> Awaited<'_> {
        let mut all = waiting.lock();
        let known = all.get(&wanted).and_then(Weak::upgrade);
        let answer = known.unwrap_or_else(|| {
            let wanted = Arc::new(wanted);
            let turn = Turn {
                found: None,
                pause: FIRST_PAUSE,
                next: Instant::now(),
            };
            let answer = Arc::new(Answer {
                wanted: wanted.clone(),
                announced: Notify::new(),
                turn: sync::Mutex::new(turn),
            });
            all.insert(wanted, Arc::downgrade(&answer));
            answer
        });
        drop(all);
        Awaited { waiting, answer }
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut all = self.waiting.lock();
        // Others clone it under the lock alone.
        if Arc::strong_count(&self.answer) == 1 {
            all.remove(&self.answer.wanted);
        }
    }
}

//! The calls of this process that wait for the response of a request that is in progress.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{self, Notify},
    time::Instant,
};

use crate::Facility;

const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The responses that calls of this process wait for now.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<HashMap<Arc<RequestKey>, Weak<Pending>>>);

/// Identifies the request.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey {
    pub(crate) facility: Facility,
    pub(crate) method: String,
    pub(crate) request_id: uuid::Uuid,
}

/// One awaited response.
#[derive(Debug)]
pub(crate) struct Pending {
    key: Arc<RequestKey>,
    /// Notified when this process has stored the response.
    pub(crate) response_stored: Notify,
    /// Locked by the call that polls.
    pub(crate) poll: sync::Mutex<Poll>,
}

/// The state of the polling.
#[derive(Debug)]
pub(crate) struct Poll {
    pub(crate) found: Option<Vec<u8>>,
    pub(crate) pause: Duration,
    pub(crate) next: Instant,
}

impl Waiters {
    /// Wakes the call that polls for the response, if any waits for it.
    pub(crate) fn notify(&self, id: &RequestKey) {
        if let Some(pending) = self.lock().get(id).and_then(Weak::upgrade) {
            // The notification is kept if no call is listening at this moment.
            pending.response_stored.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<RequestKey>, Weak<Pending>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's reference to an awaited response; the last one removes the entry.
pub(crate) struct Waiter<'a> {
    waiters: &'a Waiters,
    pub(crate) pending: Arc<Pending>,
}

impl Waiter<'_> {
    pub(crate) fn new(waiters: &Waiters, id: RequestKey) -> Waiter<'_> {
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

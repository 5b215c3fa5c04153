//! The bound on calls in flight and on calls that wait for one of those to end.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, futures::Notified};

/// Shared by all endpoints of a channel.
#[derive(Debug)]
pub(crate) struct Room {
    cap: usize,
    most_waiting: usize,
    waiting: AtomicUsize,
    freed: Notify,
}

impl Room {
    /// At most `cap` calls in flight on each endpoint, and `most_waiting` calls waiting on all of them.
    pub(crate) fn new(cap: usize, most_waiting: usize) -> Room {
        Room {
            cap,
            most_waiting,
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    pub(crate) fn cap(&self) -> usize {
        self.cap
    }

    /// A call ended.
    pub(crate) fn freed(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.freed.notify_one();
        }
    }

    /// A place in the queue, `None` when it is full.
    pub(crate) fn queue(&self) -> Option<Place<'_>> {
        let most = self.most_waiting;
        let more = |waiting: usize| (waiting < most).then_some(waiting + 1);
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Place(self))
    }
}

/// A place in the queue, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Room);

impl Place<'_> {
    /// Completes after a call has ended. To lose no wake-up, enable it before looking for room.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

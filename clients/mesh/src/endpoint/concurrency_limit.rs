//! The limit of calls in flight, and a bounded queue of calls waiting for one of them to end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, futures::Notified};

/// The limits of a channel. Shared by all its endpoints.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    max_in_flight: usize,
    max_waiting: usize,
    waiting: AtomicUsize,
    released: Notify,
    /// Whether calls wait for different groups of endpoints.
    routed: AtomicBool,
}

impl ConcurrencyLimit {
    /// At most `max_in_flight` calls in flight on each endpoint, and `max_waiting` calls waiting on all of them.
    pub(crate) fn new(max_in_flight: usize, max_waiting: usize) -> ConcurrencyLimit {
        ConcurrencyLimit {
            max_in_flight,
            max_waiting,
            waiting: AtomicUsize::new(0),
            released: Notify::new(),
            routed: AtomicBool::new(false),
        }
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    /// Whether calls are routed: then a call that is woken may wait for another endpoint than the released one.
    pub(crate) fn set_routed(&self, routed: bool) {
        self.routed.store(routed, Ordering::Relaxed);
    }

    /// Wakes one waiting call, because a call has ended; all of them if calls are routed.
    pub(crate) fn release(&self) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.routed.load(Ordering::Relaxed) {
            self.released.notify_waiters();
        } else {
            self.released.notify_one();
        }
    }

    /// Takes a place in the queue; `None` if it is full.
    pub(crate) fn enqueue(&self) -> Option<QueueSlot<'_>> {
        let max = self.max_waiting;
        let more = |waiting: usize| (waiting < max).then_some(waiting + 1);
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(QueueSlot(self))
    }
}

/// A place in the queue, released when dropped.
#[derive(Debug)]
pub(crate) struct QueueSlot<'a>(&'a ConcurrencyLimit);

impl QueueSlot<'_> {
    /// Completes when a call has ended. Enable it before looking for a free endpoint, or a wake-up may be lost.
    pub(crate) fn released(&self) -> Notified<'_> {
        self.0.released.notified()
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

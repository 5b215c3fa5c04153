//! When the peer was last heard of, and whether anybody waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::frames::FrameEvent;

/// A ping that is unanswered for longer than this makes new calls avoid the connection. Answers come within a few
/// milliseconds unless a machine is short of time, and then another endpoint is the better choice as well.
const OVERDUE_AFTER: Duration = Duration::from_millis(250);

/// One connection's signs of life. Moments are microseconds since the connection was connected_at.
#[derive(Debug)]
pub(crate) struct Activity {
    connected_at: Instant,
    last_read: AtomicU64,
    /// The last ping of a quiet connection.
    last_ping: AtomicU64,
    waiting: AtomicUsize,
    /// When `waiting` rose from zero.
    waiting_since: AtomicU64,
    /// The pings are paced for an idle connection, and are to be woken when it is not.
    wake_on_call: AtomicBool,
    waker: AtomicWaker,
    /// How many streams the peer allows.
    max_streams: AtomicUsize,
    /// The peer has said how often it may be pinged, and that is often enough.
    allows_pings: AtomicBool,
    /// The peer has gone away because it was pinged too often.
    pinged_too_often: AtomicBool,
}

/// A call whose answer has not begun.
#[derive(Debug)]
pub(crate) struct WaitingCall(Arc<Activity>);

impl Activity {
    /// `allows_pings`: event is known of the peer from an earlier connection.
    pub(crate) fn new(allows_pings: bool) -> Activity {
        Activity {
            connected_at: Instant::now(),
            last_read: AtomicU64::new(0),
            last_ping: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            waiting_since: AtomicU64::new(0),
            wake_on_call: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            max_streams: AtomicUsize::new(usize::MAX),
            allows_pings: AtomicBool::new(allows_pings),
            pinged_too_often: AtomicBool::new(false),
        }
    }

    /// A call is sent, and waits for the beginning of its answer until the guard is dropped.
    pub(crate) fn begin_wait(self: &Arc<Activity>) -> WaitingCall {
        if self.waiting.fetch_add(1, Ordering::SeqCst) == 0 {
            self.waiting_since.store(self.now_us(), Ordering::SeqCst);
            if self.wake_on_call.swap(false, Ordering::SeqCst) {
                self.waker.wake();
            }
        }
        WaitingCall(Arc::clone(self))
    }

    /// Whether a ping should have been answered by now.
    pub(crate) fn ping_overdue(&self) -> bool {
        let pinged = self.last_ping.load(Ordering::Relaxed);
        pinged > self.last_read.load(Ordering::Relaxed) && self.at(pinged).elapsed() > OVERDUE_AFTER
    }

    /// For how long calls have waited and nothing at all has come.
    pub(crate) fn silent_for(&self) -> Duration {
        self.waiting_since()
            .map_or(Duration::ZERO, |since| since.max(self.last_read()).elapsed())
    }

    /// How many streams the peer allows at a time.
    pub(crate) fn max_streams(&self) -> usize {
        self.max_streams.load(Ordering::Relaxed)
    }

    /// Whether the peer has shown that it bears frequent pings.
    pub(crate) fn allows_pings(&self) -> bool {
        self.allows_pings.load(Ordering::Relaxed)
    }

    /// The peer has said so: from now on silence is noticed soon.
    pub(crate) fn set_allows_pings(&self) {
        if !self.allows_pings.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Whether the peer went away because it was pinged too often.
    pub(crate) fn pinged_too_often(&self) -> bool {
        self.pinged_too_often.load(Ordering::Relaxed)
    }

    pub(super) fn apply(&self, event: FrameEvent) {
        match event {
            FrameEvent::MaxStreams(streams) => self.max_streams.store(streams, Ordering::Relaxed),
            FrameEvent::TooManyPings => self.pinged_too_often.store(true, Ordering::Relaxed),
        }
    }

    /// Has `waker` woken when the peer [announces](Activity::set_allows_pings) something.
    pub(super) fn wake_on_announcement(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn record_read(&self) {
        self.last_read.store(self.now_us(), Ordering::Relaxed);
    }

    pub(super) fn record_ping(&self) {
        self.last_ping.store(self.now_us(), Ordering::Relaxed);
    }

    pub(super) fn last_read(&self) -> Instant {
        self.at(self.last_read.load(Ordering::Relaxed))
    }

    /// When something was heard, or a call began to wait alone.
    pub(super) fn last_used(&self) -> Instant {
        self.last_read()
            .max(self.at(self.waiting_since.load(Ordering::SeqCst)))
    }

    /// Since when somebody has waited.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        (self.waiting.load(Ordering::SeqCst) > 0).then(|| self.at(self.waiting_since.load(Ordering::SeqCst)))
    }

    /// Has `waker` woken by the next call, unless one waits already.
    pub(super) fn wake_on_next_call(&self, waker: &Waker) {
        self.waker.register(waker);
        self.wake_on_call.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 && self.wake_on_call.swap(false, Ordering::SeqCst) {
            waker.wake_by_ref();
        }
    }

    pub(super) fn wake_on_call(&self) -> bool {
        self.wake_on_call.load(Ordering::SeqCst)
    }

    fn now_us(&self) -> u64 {
        self.connected_at.elapsed().as_micros() as u64
    }

    fn at(&self, now_us: u64) -> Instant {
        self.connected_at + Duration::from_micros(now_us)
    }
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

//! The last inbound activity of a connection, and the number of calls awaiting a response.

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

/// If a ping is unanswered for longer than this, new calls avoid the connection. A healthy peer answers within a
/// few milliseconds; one that is slower because its machine is overloaded is best avoided as well.
const OVERDUE_AFTER: Duration = Duration::from_millis(250);

/// The activity of one connection. Times are microseconds since `connected_at`.
#[derive(Debug)]
pub(crate) struct Activity {
    connected_at: Instant,
    last_read: AtomicU64,
    /// When the last ping was sent.
    last_ping: AtomicU64,
    /// Number of calls without any response yet.
    waiting: AtomicUsize,
    /// When `waiting` rose from zero.
    waiting_since: AtomicU64,
    /// The keepalive timer is set for an idle connection; the next call must wake it.
    wake_on_call: AtomicBool,
    waker: AtomicWaker,
    /// Concurrent streams that the peer allows.
    max_streams: AtomicUsize,
    /// The peer has announced that it allows pings as frequent as ours.
    allows_pings: AtomicBool,
    /// The peer has sent GOAWAY because it was pinged too often.
    pinged_too_often: AtomicBool,
}

/// Counts a call as waiting until it is dropped.
#[derive(Debug)]
pub(crate) struct WaitingCall(Arc<Activity>);

impl Activity {
    /// `allows_pings`: whether the peer has announced it on an earlier connection.
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

    /// Counts a call as waiting for the beginning of its response until the guard is dropped.
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

    /// How long calls have been waiting without any byte received; zero if no call waits.
    pub(crate) fn silent_for(&self) -> Duration {
        self.waiting_since()
            .map_or(Duration::ZERO, |since| since.max(self.last_read()).elapsed())
    }

    /// Concurrent streams that the peer allows.
    pub(crate) fn max_streams(&self) -> usize {
        self.max_streams.load(Ordering::Relaxed)
    }

    /// Whether the peer has announced that it allows frequent pings.
    pub(crate) fn allows_pings(&self) -> bool {
        self.allows_pings.load(Ordering::Relaxed)
    }

    /// Records the peer's announcement: from now on it is pinged soon when it is silent.
    pub(crate) fn set_allows_pings(&self) {
        if !self.allows_pings.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Whether the peer closed the connection because it was pinged too often.
    pub(crate) fn pinged_too_often(&self) -> bool {
        self.pinged_too_often.load(Ordering::Relaxed)
    }

    pub(super) fn apply(&self, event: FrameEvent) {
        match event {
            FrameEvent::MaxStreams(streams) => self.max_streams.store(streams, Ordering::Relaxed),
            FrameEvent::TooManyPings => self.pinged_too_often.store(true, Ordering::Relaxed),
        }
    }

    /// Wakes `waker` when the peer [allows frequent pings](Activity::set_allows_pings).
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

    /// The later of the last read and the time when `waiting` rose from zero.
    pub(super) fn last_used(&self) -> Instant {
        self.last_read()
            .max(self.at(self.waiting_since.load(Ordering::SeqCst)))
    }

    /// Since when at least one call has been waiting without interruption; `None` if none is waiting.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        (self.waiting.load(Ordering::SeqCst) > 0).then(|| self.at(self.waiting_since.load(Ordering::SeqCst)))
    }

    /// Wakes `waker` on the next call, or at once if a call is already waiting.
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

    fn at(&self, micros: u64) -> Instant {
        self.connected_at + Duration::from_micros(micros)
    }
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

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

use super::frames::Said;

/// A ping that is unanswered for longer than this makes new calls avoid the connection. Answers come within a few
/// milliseconds unless a machine is short of time, and then another endpoint is the better choice as well.
const OVERDUE: Duration = Duration::from_millis(250);

/// One connection's signs of life. Moments are microseconds since the connection was made.
#[derive(Debug)]
pub(crate) struct Pulse {
    made: Instant,
    heard: AtomicU64,
    /// The last ping of a quiet connection.
    asked: AtomicU64,
    waiting: AtomicUsize,
    /// When `waiting` rose from zero.
    since: AtomicU64,
    /// The pings are paced for an idle connection, and are to be woken when it is not.
    dozing: AtomicBool,
    waker: AtomicWaker,
    /// How many streams the peer allows.
    streams: AtomicUsize,
    /// The peer has said how often it may be pinged, and that is often enough.
    bears_pings: AtomicBool,
    /// The peer has gone away because it was pinged too often.
    pinged_too_often: AtomicBool,
}

/// A call whose answer has not begun.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Pulse>);

impl Pulse {
    /// `bears_pings`: what is known of the peer from an earlier connection.
    pub(crate) fn new(bears_pings: bool) -> Pulse {
        Pulse {
            made: Instant::now(),
            heard: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            dozing: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            streams: AtomicUsize::new(usize::MAX),
            bears_pings: AtomicBool::new(bears_pings),
            pinged_too_often: AtomicBool::new(false),
        }
    }

    /// A call is sent, and waits for the beginning of its answer until the guard is dropped.
    pub(crate) fn wait(self: &Arc<Pulse>) -> Waiting {
        if self.waiting.fetch_add(1, Ordering::SeqCst) == 0 {
            self.since.store(self.moment(), Ordering::SeqCst);
            if self.dozing.swap(false, Ordering::SeqCst) {
                self.waker.wake();
            }
        }
        Waiting(Arc::clone(self))
    }

    /// Whether a ping should have been answered by now.
    pub(crate) fn overdue(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        asked > self.heard.load(Ordering::Relaxed) && self.at(asked).elapsed() > OVERDUE
    }

    /// For how long calls have waited and nothing at all has come.
    pub(crate) fn unheard(&self) -> Duration {
        self.waited_since()
            .map_or(Duration::ZERO, |since| since.max(self.last_heard()).elapsed())
    }

    /// How many streams the peer allows at a time.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether the peer has shown that it bears frequent pings.
    pub(crate) fn bears_pings(&self) -> bool {
        self.bears_pings.load(Ordering::Relaxed)
    }

    /// The peer has said so: from now on silence is noticed soon.
    pub(crate) fn announced(&self) {
        if !self.bears_pings.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Whether the peer went away because it was pinged too often.
    pub(crate) fn pinged_too_often(&self) -> bool {
        self.pinged_too_often.load(Ordering::Relaxed)
    }

    pub(super) fn said(&self, what: Said) {
        match what {
            Said::Streams(streams) => self.streams.store(streams, Ordering::Relaxed),
            Said::TooManyPings => self.pinged_too_often.store(true, Ordering::Relaxed),
        }
    }

    /// Has `waker` woken when the peer [announces](Pulse::announced) something.
    pub(super) fn await_announcement(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn heard(&self) {
        self.heard.store(self.moment(), Ordering::Relaxed);
    }

    pub(super) fn asked(&self) {
        self.asked.store(self.moment(), Ordering::Relaxed);
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.at(self.heard.load(Ordering::Relaxed))
    }

    /// When something was heard, or a call began to wait alone.
    pub(super) fn last_used(&self) -> Instant {
        self.last_heard().max(self.at(self.since.load(Ordering::SeqCst)))
    }

    /// Since when somebody has waited.
    pub(super) fn waited_since(&self) -> Option<Instant> {
        (self.waiting.load(Ordering::SeqCst) > 0).then(|| self.at(self.since.load(Ordering::SeqCst)))
    }

    /// Has `waker` woken by the next call, unless one waits already.
    pub(super) fn doze(&self, waker: &Waker) {
        self.waker.register(waker);
        self.dozing.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 && self.dozing.swap(false, Ordering::SeqCst) {
            waker.wake_by_ref();
        }
    }

    pub(super) fn dozing(&self) -> bool {
        self.dozing.load(Ordering::SeqCst)
    }

    fn moment(&self) -> u64 {
        self.made.elapsed().as_micros() as u64
    }

    fn at(&self, moment: u64) -> Instant {
        self.made + Duration::from_micros(moment)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

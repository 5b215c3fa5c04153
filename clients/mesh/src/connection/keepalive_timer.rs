//! The timer of keepalive pings: when a silent connection is pinged, and how long the answer may take.
//!
//! hyper pings a connection that has been silent for one interval, idle or not, and measures time with the timer
//! that it is given. This timer makes the interval short while calls are waiting and long while none is, so that a
//! dead connection is detected within its calls' deadlines, and an idle one costs next to nothing.
//!
//! This applies only to peers that have announced that they allow it. Other gRPC servers, such as grpc-go, count
//! pings and close the connection after the third that comes too soon (gRFC A8): by default they allow one in five
//! minutes, and none while no call is open.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context as Task, Poll},
    time::{Duration, Instant as StdInstant},
};

use hyper::rt::{Sleep, Timer};
use tokio::time::{Instant, sleep_until};

use super::activity::Activity;
use crate::options::Tuning;

/// If the timer fires later than this after its due time, the process was not scheduled, and may not have read
/// what had been received.
const LATE_WAKE_UP: Duration = Duration::from_millis(100);

/// How long a connection may be silent before it is pinged, and how long the answer may take.
#[derive(Clone, Copy, Debug)]
struct PingTimes {
    interval: Duration,
    timeout: Duration,
}

/// The timer of one connection's pings.
#[derive(Clone, Debug)]
pub(super) struct KeepaliveTimer {
    activity: Arc<Activity>,
    idle: PingTimes,
    /// While calls are waiting.
    busy: PingTimes,
    /// The silence after which a peer that has announced nothing is pinged while calls are waiting; `None`: never.
    unannounced: Option<Duration>,
    /// Ignores the peer's announcement, because something on the way to it has received too many pings.
    ignores_announcements: bool,
}

/// How often the ping interval was doubled. Shared by all connections of a channel.
#[derive(Debug, Default)]
pub(crate) struct PingBackoff(AtomicU32);

/// Maximum number of doublings of the interval.
const MAX_DOUBLINGS: u32 = 8;
/// Stands for "no ping": the timer is checked again after this.
const NEVER: Duration = Duration::from_secs(24 * 3600);

impl PingBackoff {
    /// Doubles the interval of all later connections, after a peer closed one because of too many pings (gRFC A8).
    /// Returns the new factor.
    pub(crate) fn double(&self) -> u32 {
        let more = |doublings: u32| (doublings < MAX_DOUBLINGS).then_some(doublings + 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        self.factor()
    }

    fn factor(&self) -> u32 {
        1 << self.0.load(Ordering::Relaxed)
    }
}

impl KeepaliveTimer {
    pub(super) fn new(
        activity: Arc<Activity>,
        tuning: &Tuning,
        ping_backoff: &PingBackoff,
    ) -> KeepaliveTimer {
        let factor = ping_backoff.factor();
        let idle = PingTimes {
            interval: tuning.keepalive_interval(),
            timeout: tuning.keepalive_timeout(),
        };
        let busy = tuning.silence().map_or(idle, |silence| PingTimes {
            interval: silence.min(idle.interval),
            timeout: tuning.silence_timeout().min(idle.timeout),
        });
        KeepaliveTimer {
            activity,
            idle,
            busy,
            unannounced: tuning.keepalive_unannounced().map(|quiet| quiet * factor),
            ignores_announcements: factor > 1,
        }
    }

    fn pings_often(&self) -> bool {
        self.activity.allows_pings() && !self.ignores_announcements
    }

    /// The ping interval passed to hyper.
    pub(super) fn interval(&self) -> Duration {
        self.busy.interval
    }

    /// The ping timeout passed to hyper. It is longer than the interval, which tells the two apart in
    /// `sleep_until`.
    pub(super) fn timeout(&self) -> Duration {
        self.busy.interval + self.idle.timeout
    }
}

impl Timer for KeepaliveTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn Sleep>> {
        let (deadline, now) = (Instant::from_std(deadline), Instant::now());
        // hyper counts the interval from a time in the past, and the timeout from now.
        let phase = if deadline > now + self.interval() {
            self.activity.record_ping();
            Phase::AfterPing {
                at: now,
                extended: false,
            }
        } else {
            Phase::BeforePing { until: deadline }
        };
        Box::pin(PingSleep {
            timer: self.clone(),
            phase,
            alarm: None,
            idle_alarm: false,
            pings_often: false,
        })
    }

    fn now(&self) -> StdInstant {
        Instant::now().into_std()
    }
}

/// What the timer is waiting for.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The time to ping, not before `until`.
    BeforePing { until: Instant },
    /// The timeout of a ping sent `at`; extended once if the process was not scheduled.
    AfterPing { at: Instant, extended: bool },
}

#[derive(Debug)]
struct PingSleep {
    timer: KeepaliveTimer,
    phase: Phase,
    alarm: Option<Pin<Box<tokio::time::Sleep>>>,
    /// The alarm was set while the connection was idle: the next call must wake it.
    idle_alarm: bool,
    /// The alarm was set for a peer that allows frequent pings.
    pings_often: bool,
}

impl Sleep for PingSleep {}

impl PingSleep {
    fn due(&self, waiting_since: Option<Instant>) -> Instant {
        let KeepaliveTimer {
            activity,
            idle,
            busy,
            unannounced,
            ..
        } = &self.timer;
        let last_read = activity.last_read();
        if !self.pings_often {
            return match (self.phase, waiting_since, unannounced) {
                (Phase::BeforePing { until }, Some(since), Some(silence)) => {
                    until.max(last_read.max(since) + *silence)
                }
                (Phase::BeforePing { .. }, ..) => Instant::now() + NEVER,
                (Phase::AfterPing { at, .. }, ..) => at.max(last_read) + idle.timeout,
            };
        }
        match (self.phase, waiting_since) {
            (Phase::BeforePing { until }, None) => until.max(last_read + idle.interval),
            (Phase::BeforePing { until }, Some(since)) => until.max(last_read.max(since) + busy.interval),
            (Phase::AfterPing { at, .. }, None) => at.max(last_read) + idle.timeout,
            (Phase::AfterPing { at, .. }, Some(_)) => at.max(last_read) + busy.timeout,
        }
    }
}

impl Future for PingSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<()> {
        loop {
            if !self.timer.pings_often() {
                self.timer.activity.wake_on_announcement(cx.waker());
            }
            let pings_often = self.timer.pings_often();
            let woken =
                self.idle_alarm && !self.timer.activity.wake_on_call() || self.pings_often != pings_often;
            self.pings_often = pings_often;
            if let Some(alarm) = &mut self.alarm
                && !woken
                && alarm.as_mut().poll(cx).is_pending()
            {
                // The polling task may have changed since the alarm was set.
                if self.idle_alarm {
                    self.timer.activity.wake_on_next_call(cx.waker());
                }
                return Poll::Pending;
            }
            let waiting_since = self.timer.activity.waiting_since();
            let (due, now) = (self.due(waiting_since), Instant::now());
            if due <= now {
                match &mut self.phase {
                    Phase::AfterPing { at, extended } if !*extended && now - due > LATE_WAKE_UP => {
                        (*at, *extended) = (now, true);
                        continue;
                    }
                    _ => return Poll::Ready(()),
                }
            }
            // On a connection in use the alarm fires often enough by itself, and calls need not wake it.
            let unused = self.timer.activity.last_used() + self.timer.busy.interval;
            self.idle_alarm = waiting_since.is_none() && unused <= now;
            if self.idle_alarm {
                self.timer.activity.wake_on_next_call(cx.waker());
            }
            let next = if waiting_since.is_some() || self.idle_alarm {
                due
            } else {
                due.min(unused)
            };
            match &mut self.alarm {
                Some(alarm) => alarm.as_mut().reset(next),
                None => self.alarm = Some(Box::pin(sleep_until(next))),
            }
        }
    }
}

#[cfg(test)]
mod tests;

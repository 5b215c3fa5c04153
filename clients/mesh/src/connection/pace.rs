//! When a quiet connection is pinged, and how long the answer may take.
//!
//! hyper pings a connection that has been quiet for one interval, whether it is idle or not, and takes its time from
//! the timer that it is given. This one makes the interval short while calls wait for an answer and long while none
//! does, so that a dead connection is found out within its calls' deadlines, and an idle one costs next to nothing.
//!
//! Only a peer that has announced that it bears this is pinged so. Servers of other makers count pings and close the
//! connection after the third that comes too soon (gRFC A8): by default they allow one in five minutes, and none while
//! no call is open.

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

use super::pulse::Pulse;
use crate::options::Tuning;

/// Who notices so late that time is up has not had the processor, and may not have read what had come.
const HELD_UP: Duration = Duration::from_millis(100);

/// How long a connection may be quiet, and how long a ping's answer may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    quiet: Duration,
    answer: Duration,
}

/// The timer of one connection's pings.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    pulse: Arc<Pulse>,
    idle: Patience,
    /// While calls wait.
    busy: Patience,
    /// The silence after which a peer that has announced nothing is pinged while calls wait; `None`: never.
    unannounced: Option<Duration>,
    /// What the peer announces does not count: something between here and there has had too many pings.
    deaf: bool,
}

/// What a channel has learned about pings: shared by all its connections.
#[derive(Debug, Default)]
pub(crate) struct Restraint(AtomicU32);

/// The interval is not doubled more often than this.
const MOST_DOUBLINGS: u32 = 8;
/// Looked at again after this long, where nothing is to be done.
const NEVER: Duration = Duration::from_secs(24 * 3600);

impl Restraint {
    /// A peer went away because it was pinged too often: the interval doubles for all later connections (gRFC A8).
    /// Returns what it is multiplied by from now on.
    pub(crate) fn double(&self) -> u32 {
        let more = |doublings: u32| (doublings < MOST_DOUBLINGS).then_some(doublings + 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        self.factor()
    }

    fn factor(&self) -> u32 {
        1 << self.0.load(Ordering::Relaxed)
    }
}

impl Pace {
    pub(super) fn new(pulse: Arc<Pulse>, tuning: &Tuning, restraint: &Restraint) -> Pace {
        let factor = restraint.factor();
        let idle = Patience {
            quiet: tuning.keepalive_interval(),
            answer: tuning.keepalive_timeout(),
        };
        let busy = tuning.silence().map_or(idle, |quiet| Patience {
            quiet: quiet.min(idle.quiet),
            answer: tuning.silence_timeout().min(idle.answer),
        });
        Pace {
            pulse,
            idle,
            busy,
            unannounced: tuning.keepalive_unannounced().map(|quiet| quiet * factor),
            deaf: factor > 1,
        }
    }

    fn frequent(&self) -> bool {
        self.pulse.bears_pings() && !self.deaf
    }

    /// What hyper is told as the interval of its pings.
    pub(super) fn interval(&self) -> Duration {
        self.busy.quiet
    }

    /// What hyper is told as the time for an answer: longer than the interval, by which the two are told apart.
    pub(super) fn timeout(&self) -> Duration {
        self.busy.quiet + self.idle.answer
    }
}

impl Timer for Pace {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn Sleep>> {
        let (deadline, now) = (Instant::from_std(deadline), Instant::now());
        // hyper counts its interval from something that is past, and the time for an answer from now.
        let phase = if deadline > now + self.interval() {
            self.pulse.asked();
            Phase::Asked {
                at: now,
                excused: false,
            }
        } else {
            Phase::Quiet { until: deadline }
        };
        Box::pin(Pause {
            pace: self.clone(),
            phase,
            alarm: None,
            dozes: false,
            frequent: false,
        })
    }

    fn now(&self) -> StdInstant {
        Instant::now().into_std()
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// To ping, not before `until`.
    Quiet { until: Instant },
    /// To give up; excused once for not having had the processor.
    Asked { at: Instant, excused: bool },
}

#[derive(Debug)]
struct Pause {
    pace: Pace,
    phase: Phase,
    alarm: Option<Pin<Box<tokio::time::Sleep>>>,
    /// The alarm was set while the connection was idle: a call is to wake it.
    dozes: bool,
    /// The alarm was set for a peer that bears frequent pings.
    frequent: bool,
}

impl Sleep for Pause {}

impl Pause {
    fn due(&self, waited_since: Option<Instant>) -> Instant {
        let Pace {
            pulse,
            idle,
            busy,
            unannounced,
            ..
        } = &self.pace;
        let heard = pulse.last_heard();
        if !self.frequent {
            return match (self.phase, waited_since, unannounced) {
                (Phase::Quiet { until }, Some(since), Some(quiet)) => until.max(heard.max(since) + *quiet),
                (Phase::Quiet { .. }, ..) => Instant::now() + NEVER,
                (Phase::Asked { at, .. }, ..) => at.max(heard) + idle.answer,
            };
        }
        match (self.phase, waited_since) {
            (Phase::Quiet { until }, None) => until.max(heard + idle.quiet),
            (Phase::Quiet { until }, Some(since)) => until.max(heard.max(since) + busy.quiet),
            (Phase::Asked { at, .. }, None) => at.max(heard) + idle.answer,
            (Phase::Asked { at, .. }, Some(_)) => at.max(heard) + busy.answer,
        }
    }
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<()> {
        loop {
            if !self.pace.frequent() {
                self.pace.pulse.await_announcement(cx.waker());
            }
            let frequent = self.pace.frequent();
            let woken = self.dozes && !self.pace.pulse.dozing() || self.frequent != frequent;
            self.frequent = frequent;
            if let Some(alarm) = &mut self.alarm
                && !woken
                && alarm.as_mut().poll(cx).is_pending()
            {
                // Whoever polls may not be who polled when the alarm was set.
                if self.dozes {
                    self.pace.pulse.doze(cx.waker());
                }
                return Poll::Pending;
            }
            let waited_since = self.pace.pulse.waited_since();
            let (due, now) = (self.due(waited_since), Instant::now());
            if due <= now {
                match &mut self.phase {
                    Phase::Asked { at, excused } if !*excused && now - due > HELD_UP => {
                        (*at, *excused) = (now, true);
                        continue;
                    }
                    _ => return Poll::Ready(()),
                }
            }
            // In a connection that is in use the alarm comes often enough by itself: no call has to move it.
            let unused = self.pace.pulse.last_used() + self.pace.busy.quiet;
            self.dozes = waited_since.is_none() && unused <= now;
            if self.dozes {
                self.pace.pulse.doze(cx.waker());
            }
            let next = if waited_since.is_some() || self.dozes {
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

//! When a quiet connection is pinged, and how long the answer may take.
//!
//! hyper pings a connection that has been quiet for one interval, whether it is idle or not, and takes its time from
//! the timer that it is given. This one makes the interval short while calls wait for an answer and long while none
//! does, so that a dead connection is found out within its calls' deadlines, and an idle one costs next to nothing.

use std::{
    pin::Pin,
    sync::Arc,
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
}

impl Pace {
    pub(super) fn new(pulse: Arc<Pulse>, tuning: &Tuning) -> Pace {
        let idle = Patience {
            quiet: tuning.keepalive_interval(),
            answer: tuning.keepalive_timeout(),
        };
        let busy = tuning.silence().map_or(idle, |quiet| Patience {
            quiet: quiet.min(idle.quiet),
            answer: tuning.silence_timeout().min(idle.answer),
        });
        Pace { pulse, idle, busy }
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
}

impl Sleep for Pause {}

impl Pause {
    fn due(&self, waited_since: Option<Instant>) -> Instant {
        let Pace { pulse, idle, busy } = &self.pace;
        let heard = pulse.last_heard();
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
            let woken = self.dozes && !self.pace.pulse.dozing();
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
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Peer {
        pulse: Arc<Pulse>,
        pace: Pace,
    }

    impl Peer {
        fn new(tuning: &Tuning) -> Peer {
            let pulse = Arc::new(Pulse::new());
            let pace = Pace::new(Arc::clone(&pulse), tuning);
            Peer { pulse, pace }
        }

        /// As hyper does when something was received just now.
        fn quiet(&self) -> Pin<Box<dyn Sleep>> {
            self.pulse.heard();
            self.pace.sleep_until(self.pace.now() + self.pace.interval())
        }

        /// As hyper does when it has sent a ping.
        fn asked(&self) -> Pin<Box<dyn Sleep>> {
            self.pace.sleep_until(self.pace.now() + self.pace.timeout())
        }
    }

    /// How long it sleeps, to the millisecond above.
    async fn slept(sleep: &mut Pin<Box<dyn Sleep>>) -> Duration {
        let began = Instant::now();
        poll_fn(|cx| sleep.as_mut().poll(cx)).await;
        began.elapsed()
    }

    fn about(slept: Duration, expected: Duration) -> bool {
        (expected..expected + 5 * MS).contains(&slept)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_pinged_at_the_keepalives_pace() {
        let peer = Peer::new(&Tuning::default());
        assert!(about(slept(&mut peer.quiet()).await, 20_000 * MS));
        assert!(about(slept(&mut peer.asked()).await, 10_000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_calls_wait_on_is_pinged_soon_and_given_up_soon() {
        let peer = Peer::new(&Tuning::default());
        let waiting = peer.pulse.wait();
        assert!(about(slept(&mut peer.quiet()).await, 500 * MS));
        let mut asked = peer.asked();
        assert!(!peer.pulse.overdue());
        assert!(timeout(251 * MS, slept(&mut asked)).await.is_err());
        assert!(peer.pulse.overdue(), "new calls avoid it");
        assert!(about(slept(&mut asked).await, 749 * MS));
        drop(waiting);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_on_an_idle_connection_brings_the_ping_forward() {
        let peer = Peer::new(&Tuning::default());
        let mut quiet = peer.quiet();
        assert!(timeout(9_000 * MS, slept(&mut quiet)).await.is_err());
        let sleeping = tokio::spawn(async move { slept(&mut quiet).await });
        tokio::task::yield_now().await;
        let _waiting = peer.pulse.wait();
        assert!(about(sleeping.await.unwrap(), 500 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_on_a_connection_in_use_wake_nothing_and_are_pinged_for_all_the_same() {
        let peer = Peer::new(&Tuning::default());
        let mut quiet = peer.quiet();
        for _ in 0..100 {
            let answered = peer.pulse.wait();
            assert!(timeout(10 * MS, slept(&mut quiet)).await.is_err());
            peer.pulse.heard();
            drop(answered);
            assert!(timeout(10 * MS, slept(&mut quiet)).await.is_err());
            assert!(!peer.pulse.dozing());
        }
        let _waiting = peer.pulse.wait();
        assert!(about(slept(&mut quiet).await, 500 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_heard_counts_as_an_answer() {
        let peer = Peer::new(&Tuning::default());
        let _waiting = peer.pulse.wait();
        let mut asked = peer.asked();
        assert!(timeout(900 * MS, slept(&mut asked)).await.is_err());
        peer.pulse.heard();
        assert!(!peer.pulse.overdue());
        assert!(about(slept(&mut asked).await, 1_000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_held_up_itself_blames_nobody_at_once() {
        let peer = Peer::new(&Tuning::default());
        let _waiting = peer.pulse.wait();
        let mut asked = peer.asked();
        advance(5_000 * MS).await;
        assert!(about(slept(&mut asked).await, 1_000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_silence_all_connections_are_alike() {
        let peer = Peer::new(&Tuning {
            silence_ms: 0,
            ..Tuning::default()
        });
        let _waiting = peer.pulse.wait();
        assert!(about(slept(&mut peer.quiet()).await, 20_000 * MS));
        assert!(about(slept(&mut peer.asked()).await, 10_000 * MS));
    }
}

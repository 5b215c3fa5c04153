//! What is known about an address beyond the life of one connection: its load, its breaker, its calls.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Code;

use super::{
    breaker::{Admission, Breaker, Consequence, Ejections},
    load::Load,
    room::Room,
    slowness::{Slowness, Typical},
};
use crate::refusal::Refusal;

/// One address's record.
#[derive(Debug)]
pub(crate) struct Vitals {
    id: u64,
    room: Arc<Room>,
    in_flight: AtomicUsize,
    /// It was much slower than most when it was last looked at.
    slow: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) load: Load,
    pub(crate) slowness: Slowness,
    pub(crate) breaker: Breaker,
}

/// What a call says about the endpoint that it went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It works.
    Good,
    /// It has too much to do: it costs more, but is not broken.
    Busy,
    /// It failed.
    Bad,
    /// It did not answer in time, which is its fault only if it had time.
    Late,
}

/// How long a call may take, and how long it must have taken to be the endpoint's fault.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    pub(crate) deadline: Option<Instant>,
    /// A caller in more of a hurry than this blames nobody: its haste must not eject a healthy endpoint.
    pub(crate) patience: Duration,
}

impl Allowance {
    /// Half of what the method's policy gives a call is enough to tell a slow endpoint from a hasty caller.
    pub(crate) fn new(deadline: Option<Instant>, timeout: Option<Duration>) -> Allowance {
        Allowance {
            deadline,
            patience: timeout.unwrap_or_default() / 2,
        }
    }
}

impl Verdict {
    /// Codes that an application chooses say nothing bad about the process that sends them. `headers` are those, or
    /// the trailers, that the code came with.
    pub(crate) fn of(code: Code, headers: &HeaderMap) -> Verdict {
        match code {
            Code::Unavailable | Code::Internal | Code::Unknown | Code::DataLoss => Verdict::Bad,
            Code::DeadlineExceeded => Verdict::Late,
            Code::ResourceExhausted if Refusal::of(headers, code) == Some(Refusal::Overload) => Verdict::Busy,
            _ => Verdict::Good,
        }
    }
}

impl Vitals {
    pub(crate) fn new(id: u64, room: Arc<Room>, ejections: Arc<Ejections>) -> Vitals {
        let record = Mutex::new(Record {
            load: Load::new(),
            slowness: Slowness::default(),
            breaker: Breaker::new(ejections),
        });
        Vitals {
            id,
            room,
            in_flight: AtomicUsize::new(0),
            slow: AtomicBool::new(false),
            record,
        }
    }

    /// Names the address within its channel.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Calls sent and not yet answered to the end.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }

    /// The share of the in-flight cap that is used, 0 to 1.
    pub(crate) fn fullness(&self) -> f64 {
        self.in_flight() as f64 / self.room.cap() as f64
    }

    /// A new connection after a lost one starts cold again.
    pub(crate) fn reconnected(&self) {
        self.record().start_cold();
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the breaker says, and the [slowness](Slowness::score).
    pub(crate) fn standing(&self, now: Instant) -> (Admission, Option<f64>) {
        let record = self.record();
        (record.breaker.admission(now), record.slowness.score())
    }

    pub(crate) fn cost(&self, now: Instant) -> f64 {
        self.record().load.cost(self.in_flight(), now)
    }

    /// Begins a call, unless as many as the cap allows are in flight.
    pub(crate) fn take_off(self: &Arc<Self>, allowance: Allowance, probe: bool) -> Option<Flight> {
        let cap = self.room.cap();
        let more = |in_flight: usize| (in_flight < cap).then_some(in_flight + 1);
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let vitals = Arc::clone(self);
        Some(Flight {
            vitals,
            started: Instant::now(),
            allowance,
            typical: None,
            answered: None,
            probe,
            settled: false,
        })
    }
}

impl Record {
    /// What was known says nothing about a new connection, nor about a server that is well again.
    fn start_cold(&mut self) {
        self.load = Load::new();
        self.slowness = Slowness::default();
    }
}

/// A call between its sending and the end of its response. Dropped unsettled, it was given up by its caller.
#[derive(Debug)]
pub(crate) struct Flight {
    vitals: Arc<Vitals>,
    started: Instant,
    allowance: Allowance,
    /// What is typical of the method; `None`: the call says nothing about slowness.
    typical: Option<Arc<Typical>>,
    /// How long the response's headers took.
    answered: Option<Duration>,
    probe: bool,
    settled: bool,
}

impl Flight {
    /// Latencies are compared with what is typical of the method.
    pub(crate) fn beside(mut self, typical: Option<&Arc<Typical>>) -> Flight {
        self.typical = typical.cloned();
        self
    }

    /// The response has begun; how it ends is still open.
    pub(crate) fn answered(&mut self) {
        self.answered = Some(self.started.elapsed());
    }

    /// Whether the call was picked to find out if an ejected endpoint works again.
    pub(crate) fn probe(&self) -> bool {
        self.probe
    }

    /// Books the call's end; the first word counts.
    pub(crate) fn settle(&mut self, verdict: Verdict) -> Consequence {
        if std::mem::replace(&mut self.settled, true) {
            return Consequence::Nothing;
        }
        let latency = self.answered.unwrap_or_else(|| self.started.elapsed());
        let hasty = self.started.elapsed() < self.allowance.patience;
        let mut record = self.vitals.record();
        match verdict {
            Verdict::Good => {
                if record.breaker.succeeded() {
                    record.start_cold();
                }
                record.load.succeeded(latency);
                if let Some(typical) = &self.typical {
                    record.slowness.answered(typical, latency);
                }
                Consequence::Nothing
            }
            Verdict::Busy => {
                record.load.failed(latency);
                let _readmitted = record.breaker.succeeded();
                Consequence::Nothing
            }
            Verdict::Late if hasty => {
                drop(record);
                self.learn(latency);
                self.forget();
                Consequence::Nothing
            }
            Verdict::Bad | Verdict::Late => {
                record.load.failed(latency);
                if let (Verdict::Late, Some(typical)) = (verdict, &self.typical) {
                    record.slowness.waited(typical, latency);
                }
                record.breaker.failed()
            }
        }
    }

    /// Books a call of which the endpoint never knew.
    pub(crate) fn forget(&mut self) {
        self.settled = true;
        if self.probe {
            self.vitals.record().breaker.abandon_probe();
        }
    }

    /// The endpoint is at least so slow.
    fn learn(&self, waited: Duration) {
        let mut record = self.vitals.record();
        if waited.as_secs_f64() > record.load.estimate(Instant::now()) {
            record.load.succeeded(waited);
        }
        if let Some(typical) = &self.typical {
            record.slowness.waited(typical, waited);
        }
    }

    /// A caller that ran out of time blames the endpoint if it had given it time; one that changed its mind does
    /// not, but has seen how slow the endpoint is at least.
    fn given_up(&mut self) {
        let now = Instant::now();
        if self.answered.is_some() {
            self.settle(Verdict::Good);
        } else if self.allowance.deadline.is_some_and(|deadline| deadline <= now) {
            self.settle(Verdict::Late);
        } else {
            self.learn(now.saturating_duration_since(self.started));
            self.forget();
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.settled {
            self.given_up();
        }
        self.vitals.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.vitals.room.freed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::breaker::State;

    fn vitals() -> Arc<Vitals> {
        let ejections = Arc::new(Ejections::default());
        ejections.set_connected(2);
        Arc::new(Vitals::new(1, Arc::new(Room::new(2, 1)), ejections))
    }

    fn within(time: Duration) -> Allowance {
        Allowance::new(Some(Instant::now() + time), None)
    }

    #[tokio::test(start_paused = true)]
    async fn callers_in_a_hurry_eject_nobody_and_patient_ones_do() {
        let vitals = vitals();
        let declared = Some(Duration::from_secs(2));
        for (given, code, ejects) in [
            (Duration::from_millis(100), None, false),
            (Duration::from_millis(100), Some(Code::DeadlineExceeded), false),
            (Duration::from_secs(1), None, true),
        ] {
            for _ in 0..7 {
                let allowance = Allowance::new(Some(Instant::now() + given), declared);
                let mut flight = vitals.take_off(allowance, false).unwrap();
                tokio::time::advance(given).await;
                if let Some(code) = code {
                    flight.settle(Verdict::of(code, &HeaderMap::new()));
                }
            }
            let ejected = matches!(vitals.record().breaker.state(), State::Ejected { .. });
            assert_eq!(ejected, ejects, "{given:?} {code:?}");
        }
        assert!(
            vitals.record().load.estimate(Instant::now()) > 0.09,
            "the wait is known"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_calls_than_the_cap_are_in_flight() {
        let vitals = vitals();
        let first = vitals.take_off(Allowance::default(), false).unwrap();
        let _second = vitals.take_off(Allowance::default(), false).unwrap();
        assert!(vitals.take_off(Allowance::default(), false).is_none());
        drop(first);
        assert!(vitals.take_off(Allowance::default(), false).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_run_out_of_time_eject_and_calls_that_are_dropped_do_not() {
        let vitals = vitals();
        for _ in 0..20 {
            drop(vitals.take_off(within(Duration::from_secs(1)), false));
        }
        assert_eq!(vitals.record().breaker.state(), &State::Closed);
        for _ in 0..7 {
            drop(vitals.take_off(within(Duration::ZERO), false));
        }
        assert!(matches!(vitals.record().breaker.state(), State::Ejected { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_given_up_early_still_tells_that_the_endpoint_is_slow() {
        let vitals = vitals();
        let flight = vitals.take_off(Allowance::default(), false);
        tokio::time::advance(Duration::from_secs(2)).await;
        drop(flight);
        assert_eq!(vitals.record().load.estimate(Instant::now()), 2.0);
    }
}

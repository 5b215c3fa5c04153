//! What is known about an address beyond the life of one connection: its load, its breaker, its calls.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::{sync::Notify, time::Instant};
use tonic::Code;

use super::{
    Caller,
    breaker::{Admission, Breaker, Consequence, Ejections, Probe},
    load::Load,
    room::Room,
    share::Share,
    slowness::{Slowness, Typical},
};
use crate::{call::Method, discovery::Address, refusal::Refusal, telemetry::span};

/// One address's record.
#[derive(Debug)]
pub(crate) struct Vitals {
    id: u64,
    address: Address,
    caller: Arc<Caller>,
    room: Arc<Room>,
    in_flight: AtomicUsize,
    /// Streams that the server allows on one connection (SETTINGS_MAX_CONCURRENT_STREAMS).
    streams: AtomicUsize,
    /// The server has announced that it bears frequent pings.
    bears_pings: AtomicBool,
    /// A call waits to find out whether the ejected endpoint works again, and none that came could.
    probe_wanted: Notify,
    /// It was much slower than most when it was last looked at.
    slow: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) load: Load,
    pub(crate) slowness: Slowness,
    pub(crate) breaker: Breaker,
    pub(crate) share: Share,
    /// The other end of the last connection.
    pub(crate) peer: Option<SocketAddr>,
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
            // A method without a timeout of its own does not tell what is slow.
            patience: timeout
                .filter(|timeout| *timeout < Duration::MAX)
                .unwrap_or_default()
                / 2,
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
    pub(crate) fn new(
        id: u64,
        address: Address,
        caller: Arc<Caller>,
        room: Arc<Room>,
        ejections: Arc<Ejections>,
    ) -> Vitals {
        let record = Mutex::new(Record {
            load: Load::new(),
            slowness: Slowness::default(),
            breaker: Breaker::new(ejections),
            share: Share::new(room.cap()),
            peer: None,
        });
        Vitals {
            id,
            address,
            caller,
            room,
            in_flight: AtomicUsize::new(0),
            streams: AtomicUsize::new(usize::MAX),
            bears_pings: AtomicBool::new(false),
            probe_wanted: Notify::new(),
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

    /// Calls that may be in flight: the channel's own cap, or what the server allows on the connection, which would
    /// hold back the rest unseen.
    fn cap(&self) -> usize {
        self.room.cap().min(self.streams.load(Ordering::Relaxed)).max(1)
    }

    pub(crate) fn set_streams(&self, streams: usize) {
        self.streams.store(streams, Ordering::Relaxed);
    }

    /// The share of the in-flight cap that is used, 0 to 1.
    pub(crate) fn fullness(&self) -> f64 {
        self.in_flight() as f64 / self.cap() as f64
    }

    /// Whether the endpoint is preferred for its zone for one more call.
    pub(crate) fn has_share(&self) -> bool {
        self.record().share.has_room(self.in_flight())
    }

    pub(crate) fn bears_pings(&self) -> bool {
        self.bears_pings.load(Ordering::Relaxed)
    }

    pub(crate) fn set_bears_pings(&self, bears: bool) {
        self.bears_pings.store(bears, Ordering::Relaxed);
    }

    /// Asks for a probe that is no user's call.
    pub(crate) fn want_probe(&self) {
        self.probe_wanted.notify_one();
    }

    pub(crate) async fn probe_wanted(&self) {
        self.probe_wanted.notified().await;
    }

    /// A new connection after a lost one starts cold again.
    pub(crate) fn reconnected(&self, peer: Option<SocketAddr>) {
        let mut record = self.record();
        record.start_cold();
        record.share = Share::new(self.room.cap());
        record.peer = peer;
    }

    /// Tells of an ejection, in metrics, in the log and on the running span.
    fn report(&self, consequence: Consequence) {
        let metrics = &self.caller.metrics;
        match consequence {
            Consequence::Nothing => {}
            Consequence::Ejected => {
                let (state, peer) = {
                    let record = self.record();
                    (record.breaker.state().clone(), record.peer)
                };
                metrics.ejected(&state);
                span::ejected(&self.address, peer, &state);
            }
            Consequence::Unenforced { method } => metrics.unenforced(method),
        }
    }

    /// Fails a probe that has taken too long.
    pub(crate) fn expire_probe(&self) {
        let consequence = self.record().breaker.expire_probe();
        self.report(consequence);
    }

    /// Books what the health service said to a probe.
    pub(crate) fn end_probe(&self, probe: Probe, serves: bool) {
        let mut record = self.record();
        if serves {
            if record.breaker.found_serving(probe) {
                record.start_cold();
            }
            return;
        }
        let consequence = record.breaker.failed(Some(probe));
        drop(record);
        self.report(consequence);
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
    pub(crate) fn take_off(self: &Arc<Self>, allowance: Allowance, probe: Option<Probe>) -> Option<Flight> {
        let cap = self.cap();
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
            one_message: false,
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
    /// The answer is one message: the call ends with its trailers, not with its headers.
    one_message: bool,
    probe: Option<Probe>,
    settled: bool,
}

impl Flight {
    /// Latencies are compared with what is typical of the method.
    pub(crate) fn of(mut self, method: &Method) -> Flight {
        self.typical = method.typical.clone();
        self.one_message = method
            .policy
            .as_ref()
            .is_some_and(|policy| !policy.server_streaming);
        self
    }

    /// The response has begun; how it ends is still open.
    pub(crate) fn answered(&mut self) {
        self.answered = Some(self.started.elapsed());
    }

    /// Books the call's end; the first word counts.
    pub(crate) fn settle(&mut self, verdict: Verdict) {
        if !std::mem::replace(&mut self.settled, true) {
            let consequence = self.book(verdict);
            self.vitals.report(consequence);
        }
    }

    fn book(&mut self, verdict: Verdict) -> Consequence {
        let whole = self.started.elapsed();
        let latency = match self.answered {
            // A stream takes as long as its readers like.
            Some(headers) if !self.one_message && verdict != Verdict::Late => headers,
            _ => whole,
        };
        let hasty = self.started.elapsed() < self.allowance.patience;
        let mut record = self.vitals.record();
        match verdict {
            Verdict::Good => {
                if record.breaker.succeeded(self.probe) {
                    record.start_cold();
                }
                record.load.succeeded(latency);
                record.share.grow(self.vitals.in_flight());
                if let Some(typical) = &self.typical {
                    record.slowness.answered(typical, latency);
                }
                Consequence::Nothing
            }
            Verdict::Busy => {
                record.load.failed(latency);
                record.share.shrink(self.started);
                let _readmitted = record.breaker.succeeded(self.probe);
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
                record.share.shrink(self.started);
                if let (Verdict::Late, Some(typical)) = (verdict, &self.typical) {
                    record.slowness.waited(typical, latency);
                }
                record.breaker.failed(self.probe)
            }
        }
    }

    /// Books a call of which the endpoint never knew.
    pub(crate) fn forget(&mut self) {
        self.settled = true;
        if let Some(probe) = self.probe {
            self.vitals.record().breaker.abandon_probe(probe);
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
        if self.answered.is_some() && !self.one_message {
            self.settle(Verdict::Good);
        } else if self.allowance.deadline.is_some_and(|deadline| deadline <= now) {
            self.settle(Verdict::Late);
        } else if self.answered.is_some() {
            // The answer had begun, and its caller wants no more of it, such as one too large to decode.
            self.forget();
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
mod tests;

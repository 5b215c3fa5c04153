//! A call that is in flight, and what its end says about the endpoint that it went to.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Code;

use super::Vitals;
use crate::{
    call::Method,
    endpoint::{
        breaker::{Consequence, Probe},
        slowness::Typical,
    },
    refusal::Refusal,
};

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
    pub(super) fn new(vitals: Arc<Vitals>, allowance: Allowance, probe: Option<Probe>) -> Flight {
        Flight {
            vitals,
            started: Instant::now(),
            allowance,
            typical: None,
            one_message: false,
            answered: None,
            probe,
            settled: false,
        }
    }

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

//! A call that is in flight, and what its end says about the endpoint that it went to.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Code;

use super::Stats;
use crate::{
    endpoint::{
        breaker::{Consequence, Probe},
        latency_outlier::Baseline,
    },
    method::Method,
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
pub(crate) struct Blame {
    pub(crate) deadline: Option<Instant>,
    /// A caller in more of a hurry than this blames nobody: its haste must not eject a healthy endpoint.
    pub(crate) min_duration: Duration,
}

impl Blame {
    /// Half of what the method's policy gives a call is enough to tell a slow endpoint from an impatient caller.
    pub(crate) fn new(deadline: Option<Instant>, timeout: Option<Duration>) -> Blame {
        Blame {
            deadline,
            // A method without a timeout of its own does not tell what is slow.
            min_duration: timeout
                .filter(|timeout| *timeout < Duration::MAX)
                .unwrap_or_default()
                / 2,
        }
    }
}

impl Verdict {
    /// Codes that an application chooses say nothing bad about the process that sends them. `headers` are those, or
    /// the trailers, that the code came with.
    pub(crate) fn from_code(code: Code, headers: &HeaderMap) -> Verdict {
        match code {
            Code::Unavailable | Code::Internal | Code::Unknown | Code::DataLoss => Verdict::Bad,
            Code::DeadlineExceeded => Verdict::Late,
            Code::ResourceExhausted if Refusal::from_headers(headers, code) == Some(Refusal::Overload) => {
                Verdict::Busy
            }
            _ => Verdict::Good,
        }
    }
}

/// A call between its sending and the end of its response. Dropped unsettled, it was given up by its caller.
#[derive(Debug)]
pub(crate) struct InFlight {
    stats: Arc<Stats>,
    started: Instant,
    blame: Blame,
    /// What is typical of the method; `None`: the call says nothing about slowness.
    baseline: Option<Arc<Baseline>>,
    /// How long the response's headers took.
    headers_after: Option<Duration>,
    /// The answer is one message: the call ends with its trailers, not with its headers.
    one_message: bool,
    probe: Option<Probe>,
    finished: bool,
}

impl InFlight {
    pub(super) fn new(stats: Arc<Stats>, blame: Blame, probe: Option<Probe>) -> InFlight {
        InFlight {
            stats,
            started: Instant::now(),
            blame,
            baseline: None,
            one_message: false,
            headers_after: None,
            probe,
            finished: false,
        }
    }

    /// Latencies are compared with what is typical of the method.
    pub(crate) fn for_method(mut self, method: &Method) -> InFlight {
        self.baseline = method.baseline.clone();
        self.one_message = method
            .policy
            .as_ref()
            .is_some_and(|policy| !policy.server_streaming);
        self
    }

    /// The response has begun; how it ends is still open.
    pub(crate) fn record_headers(&mut self) {
        self.headers_after = Some(self.started.elapsed());
    }

    /// Books the call's end; the first word counts.
    pub(crate) fn finish(&mut self, verdict: Verdict) {
        if !std::mem::replace(&mut self.finished, true) {
            let consequence = self.apply(verdict);
            self.stats.report_ejection(consequence);
        }
    }

    fn apply(&mut self, verdict: Verdict) -> Consequence {
        let total = self.started.elapsed();
        let latency = match self.headers_after {
            // A stream takes as long as its readers like.
            Some(headers) if !self.one_message && verdict != Verdict::Late => headers,
            _ => total,
        };
        let below_min_duration = self.started.elapsed() < self.blame.min_duration;
        let mut inner = self.stats.lock();
        match verdict {
            Verdict::Good => {
                if inner.breaker.record_success(self.probe) {
                    inner.start_cold();
                }
                inner.load.record_success(latency);
                inner.share.grow(self.stats.in_flight());
                if let Some(baseline) = &self.baseline {
                    inner.outlier_score.record_answer(baseline, latency);
                }
                Consequence::Nothing
            }
            Verdict::Busy => {
                inner.load.record_failure(latency);
                inner.share.shrink(self.started);
                let _readmitted = inner.breaker.record_success(self.probe);
                Consequence::Nothing
            }
            Verdict::Late if below_min_duration => {
                drop(inner);
                self.record_wait(latency);
                self.discard();
                Consequence::Nothing
            }
            Verdict::Bad | Verdict::Late => {
                inner.load.record_failure(latency);
                inner.share.shrink(self.started);
                if let (Verdict::Late, Some(baseline)) = (verdict, &self.baseline) {
                    inner.outlier_score.record_wait(baseline, latency);
                }
                inner.breaker.record_failure(self.probe)
            }
        }
    }

    /// Books a call of which the endpoint never knew.
    pub(crate) fn discard(&mut self) {
        self.finished = true;
        if let Some(probe) = self.probe {
            self.stats.lock().breaker.abandon_probe(probe);
        }
    }

    /// The endpoint is at least so slow.
    fn record_wait(&self, waited: Duration) {
        let mut inner = self.stats.lock();
        if waited.as_secs_f64() > inner.load.estimate(Instant::now()) {
            inner.load.record_success(waited);
        }
        if let Some(baseline) = &self.baseline {
            inner.outlier_score.record_wait(baseline, waited);
        }
    }

    /// A caller that ran out of time blames the endpoint if it had given it time; one that changed its mind does
    /// not, but has seen how slow the endpoint is at least.
    fn abandon(&mut self) {
        let now = Instant::now();
        if self.headers_after.is_some() && !self.one_message {
            self.finish(Verdict::Good);
        } else if self.blame.deadline.is_some_and(|deadline| deadline <= now) {
            self.finish(Verdict::Late);
        } else if self.headers_after.is_some() {
            // The answer had begun, and its caller wants no more of it, such as one too large to decode.
            self.discard();
        } else {
            self.record_wait(now.saturating_duration_since(self.started));
            self.discard();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.finished {
            self.abandon();
        }
        self.stats.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.stats.concurrency_limit.release();
    }
}

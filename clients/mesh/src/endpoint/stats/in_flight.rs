//! A call in flight, and the effect of its result on the endpoint's statistics.

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

/// What a call's result says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The endpoint works.
    Good,
    /// The endpoint is overloaded: its cost rises, but it is not broken.
    Busy,
    /// The call failed.
    Bad,
    /// The call timed out, which counts against the endpoint only if it had enough time (see [`Blame`]).
    Late,
}

/// When a call times out, and how long it must have taken for a timeout to count against the endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blame {
    pub(crate) deadline: Option<Instant>,
    /// A timeout after less than this does not count against the endpoint: callers with short deadlines must not
    /// eject a healthy endpoint.
    pub(crate) min_duration: Duration,
}

impl Blame {
    /// A timeout counts after half of the method's own timeout.
    pub(crate) fn new(deadline: Option<Instant>, timeout: Option<Duration>) -> Blame {
        Blame {
            deadline,
            // Without a timeout of the method every timeout counts.
            min_duration: timeout
                .filter(|timeout| *timeout < Duration::MAX)
                .unwrap_or_default()
                / 2,
        }
    }
}

impl Verdict {
    /// Codes chosen by the application do not count against the endpoint. `headers` are the headers or trailers
    /// that contain the code.
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

/// A call from its sending to the end of its response. If it is dropped before it is finished, its caller
/// abandoned it.
#[derive(Debug)]
pub(crate) struct InFlight {
    stats: Arc<Stats>,
    started: Instant,
    blame: Blame,
    /// The method's usual latency; `None`: the call does not affect the outlier score.
    baseline: Option<Arc<Baseline>>,
    /// When the response headers arrived, from the start.
    headers_after: Option<Duration>,
    /// The response is a single message, so that the latency is that of its trailers, not of its headers.
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

    /// Compares the latency with the method's baseline.
    pub(crate) fn for_method(mut self, method: &Method) -> InFlight {
        self.baseline = method.baseline.clone();
        self.one_message = method
            .policy
            .as_ref()
            .is_some_and(|policy| !policy.server_streaming);
        self
    }

    /// Records that the response headers have arrived.
    pub(crate) fn record_headers(&mut self) {
        self.headers_after = Some(self.started.elapsed());
    }

    /// Records the call's result. Later results of the same call are ignored.
    pub(crate) fn finish(&mut self, verdict: Verdict) {
        if !std::mem::replace(&mut self.finished, true) {
            let consequence = self.apply(verdict);
            self.stats.report_ejection(consequence);
        }
    }

    fn apply(&mut self, verdict: Verdict) -> Consequence {
        let total = self.started.elapsed();
        let latency = match self.headers_after {
            // The duration of a stream depends on its reader.
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

    /// Finishes the call without a result: it says nothing about the endpoint.
    pub(crate) fn discard(&mut self) {
        self.finished = true;
        if let Some(probe) = self.probe {
            self.stats.lock().breaker.abandon_probe(probe);
        }
    }

    /// Records that the endpoint did not answer within `waited`.
    fn record_wait(&self, waited: Duration) {
        let mut inner = self.stats.lock();
        if waited.as_secs_f64() > inner.load.estimate(Instant::now()) {
            inner.load.record_success(waited);
        }
        if let Some(baseline) = &self.baseline {
            inner.outlier_score.record_wait(baseline, waited);
        }
    }

    /// Records a call that its caller abandoned. It counts as a timeout if its deadline has passed; otherwise only
    /// the time waited is recorded, as a lower bound of the endpoint's latency.
    fn abandon(&mut self) {
        let now = Instant::now();
        if self.headers_after.is_some() && !self.one_message {
            self.finish(Verdict::Good);
        } else if self.blame.deadline.is_some_and(|deadline| deadline <= now) {
            self.finish(Verdict::Late);
        } else if self.headers_after.is_some() {
            // The caller rejected the response after its headers, such as one too large to decode.
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

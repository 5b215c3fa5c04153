//! The statistics of one address, which outlive a single connection: load, breaker, calls in flight.

mod in_flight;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

pub(crate) use in_flight::{Blame, InFlight, Verdict};
use tokio::{sync::Notify, time::Instant};

use super::{
    ChannelInfo,
    breaker::{Admission, Breaker, Consequence, Ejections, Probe},
    concurrency_limit::ConcurrencyLimit,
    latency_outlier::OutlierScore,
    load::Load,
    share::Share,
};
use crate::{
    discovery::Address,
    outlier_detection::{Counts, Outlier, OutlierDetection},
    telemetry::span,
};

/// Statistics of one address.
#[derive(Debug)]
pub(crate) struct Stats {
    id: u64,
    address: Address,
    channel_info: Arc<ChannelInfo>,
    concurrency_limit: Arc<ConcurrencyLimit>,
    /// Number of calls without a complete response.
    in_flight: AtomicUsize,
    /// Streams that the server allows on one connection (SETTINGS_MAX_CONCURRENT_STREAMS).
    max_streams: AtomicUsize,
    /// The server has announced that it allows frequent pings.
    allows_pings: AtomicBool,
    /// Signals that a probe of the ejected endpoint is due and no call was suitable as one.
    probe_requested: Notify,
    /// Whether the last choice found it much slower than most endpoints.
    slow: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) load: Load,
    pub(crate) outlier_score: OutlierScore,
    pub(crate) breaker: Breaker,
    pub(crate) share: Share,
    /// The server's socket address on the last connection.
    pub(crate) peer: Option<SocketAddr>,
}

impl Stats {
    pub(crate) fn new(
        id: u64,
        address: Address,
        channel_info: Arc<ChannelInfo>,
        concurrency_limit: Arc<ConcurrencyLimit>,
        ejections: Arc<Ejections>,
    ) -> Stats {
        let inner = Mutex::new(Inner {
            load: Load::new(),
            outlier_score: OutlierScore::default(),
            breaker: Breaker::new(ejections),
            share: Share::new(concurrency_limit.max_in_flight()),
            peer: None,
        });
        Stats {
            id,
            address,
            channel_info,
            concurrency_limit,
            in_flight: AtomicUsize::new(0),
            max_streams: AtomicUsize::new(usize::MAX),
            allows_pings: AtomicBool::new(false),
            probe_requested: Notify::new(),
            slow: AtomicBool::new(false),
            inner,
        }
    }

    /// Identifies the address within its channel.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Number of calls sent without a complete response.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }

    /// Calls that may be in flight: the lower of the channel's limit and the server's limit of concurrent streams,
    /// beyond which the HTTP/2 library would queue calls.
    fn cap(&self) -> usize {
        self.concurrency_limit
            .max_in_flight()
            .min(self.max_streams.load(Ordering::Relaxed))
            .max(1)
    }

    pub(crate) fn set_max_streams(&self, max_streams: usize) {
        self.max_streams.store(max_streams, Ordering::Relaxed);
    }

    /// The share of the in-flight cap that is used, 0 to 1.
    pub(crate) fn fullness(&self) -> f64 {
        self.in_flight() as f64 / self.cap() as f64
    }

    /// Whether one more call is within the endpoint's [share](Share) of calls from its own zone.
    pub(crate) fn within_share(&self) -> bool {
        self.lock().share.allows(self.in_flight())
    }

    pub(crate) fn allows_pings(&self) -> bool {
        self.allows_pings.load(Ordering::Relaxed)
    }

    pub(crate) fn set_allows_pings(&self, allowed: bool) {
        self.allows_pings.store(allowed, Ordering::Relaxed);
    }

    /// Requests a probe by a health check instead of a user's call.
    pub(crate) fn request_probe(&self) {
        self.probe_requested.notify_one();
    }

    pub(crate) async fn probe_requested(&self) {
        self.probe_requested.notified().await;
    }

    /// Resets latency and share when a new connection replaces a lost one.
    pub(crate) fn reconnected(&self, peer: Option<SocketAddr>) {
        let mut inner = self.lock();
        inner.start_cold();
        inner.share = Share::new(self.concurrency_limit.max_in_flight());
        inner.peer = peer;
    }

    /// Reports an ejection in the metrics, in the log and on the current span.
    fn report_ejection(&self, consequence: Consequence) {
        let metrics = &self.channel_info.metrics;
        match consequence {
            Consequence::Nothing => {}
            Consequence::Ejected => {
                let (state, peer) = {
                    let inner = self.lock();
                    (inner.breaker.state().clone(), inner.peer)
                };
                metrics.ejected(&state);
                span::ejected(&self.address, peer, &state);
            }
            Consequence::Unenforced { method, reason } => metrics.unenforced(method, reason),
        }
    }

    /// Fails a probe that has exceeded its timeout.
    pub(crate) fn expire_probe(&self) {
        let consequence = self.lock().breaker.expire_probe();
        self.report_ejection(consequence);
    }

    /// Records the result of a probe by a health check.
    pub(crate) fn end_probe(&self, probe: Probe, serving: bool) {
        let mut inner = self.lock();
        if serving {
            if inner.breaker.health_check_succeeded(probe) {
                inner.start_cold();
            }
            return;
        }
        let consequence = inner.breaker.record_failure(Some(probe));
        drop(inner);
        self.report_ejection(consequence);
    }

    /// The results of the calls that ended since the last call of this function, for the outlier detection.
    pub(crate) fn take_results(&self) -> Counts {
        self.lock().breaker.take_results()
    }

    /// Ejects the endpoint as an outlier, unless the policy prevents it.
    pub(crate) fn eject_outlier(&self, outlier: &Outlier, policy: &OutlierDetection, now: Instant) {
        let (consequence, peer) = {
            let mut inner = self.lock();
            (inner.breaker.eject_outlier(outlier, policy, now), inner.peer)
        };
        if matches!(consequence, Consequence::Unenforced { .. }) {
            span::unenforced(&self.address, peer, outlier);
        }
        self.report_ejection(consequence);
    }

    /// Ends a sweep of the outlier detection: readmits the endpoint if its ejection is over.
    pub(crate) fn end_sweep(&self, policy: &OutlierDetection, now: Instant) {
        let mut inner = self.lock();
        if inner.breaker.end_sweep(policy, now) {
            inner.start_cold();
        }
    }

    /// Readmits the endpoint if it was ejected as an outlier, because no outlier detection is configured any more.
    pub(crate) fn end_outlier_detection(&self) {
        let mut inner = self.lock();
        if inner.breaker.end_outlier_detection() {
            inner.start_cold();
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The breaker's admission, and the [outlier score](OutlierScore::value).
    pub(crate) fn admission_and_score(&self, now: Instant) -> (Admission, Option<f64>) {
        let inner = self.lock();
        (inner.breaker.admission(now), inner.outlier_score.value())
    }

    pub(crate) fn cost(&self, now: Instant) -> f64 {
        self.lock().load.cost(self.in_flight(), now)
    }

    /// Counts a call as in flight; `None` if the cap is reached.
    pub(crate) fn begin(self: &Arc<Self>, blame: Blame, probe: Option<Probe>) -> Option<InFlight> {
        let cap = self.cap();
        let more = |in_flight: usize| (in_flight < cap).then_some(in_flight + 1);
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(InFlight::new(Arc::clone(self), blame, probe))
    }
}

impl Inner {
    /// Forgets latencies, which do not apply to a new connection or a recovered server.
    fn start_cold(&mut self) {
        self.load = Load::new();
        self.outlier_score = OutlierScore::default();
    }
}

#[cfg(test)]
mod tests;

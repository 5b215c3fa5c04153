//! What is known about an address beyond the life of one connection: its load, its breaker, its calls.

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
use crate::{discovery::Address, telemetry::span};

/// One address's inner.
#[derive(Debug)]
pub(crate) struct Stats {
    id: u64,
    address: Address,
    channel_info: Arc<ChannelInfo>,
    concurrency_limit: Arc<ConcurrencyLimit>,
    in_flight: AtomicUsize,
    /// Streams that the server allows on one connection (SETTINGS_MAX_CONCURRENT_STREAMS).
    max_streams: AtomicUsize,
    /// The server has announced that it bears frequent pings.
    allows_pings: AtomicBool,
    /// A call waits to find out whether the ejected endpoint works again, and none that came could.
    probe_requested: Notify,
    /// It was much slower than most when it was last looked at.
    slow: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) load: Load,
    pub(crate) outlier_score: OutlierScore,
    pub(crate) breaker: Breaker,
    pub(crate) share: Share,
    /// The other end of the last connection.
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

    /// Whether the endpoint is preferred for its zone for one more call.
    pub(crate) fn within_share(&self) -> bool {
        self.lock().share.allows(self.in_flight())
    }

    pub(crate) fn allows_pings(&self) -> bool {
        self.allows_pings.load(Ordering::Relaxed)
    }

    pub(crate) fn set_allows_pings(&self, allowed: bool) {
        self.allows_pings.store(allowed, Ordering::Relaxed);
    }

    /// Asks for a probe that is no user's call.
    pub(crate) fn request_probe(&self) {
        self.probe_requested.notify_one();
    }

    pub(crate) async fn probe_requested(&self) {
        self.probe_requested.notified().await;
    }

    /// A new connection after a lost one starts cold again.
    pub(crate) fn reconnected(&self, peer: Option<SocketAddr>) {
        let mut inner = self.lock();
        inner.start_cold();
        inner.share = Share::new(self.concurrency_limit.max_in_flight());
        inner.peer = peer;
    }

    /// Tells of an ejection, in metrics, in the log and on the running span.
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
            Consequence::Unenforced { method } => metrics.unenforced(method),
        }
    }

    /// Fails a probe that has taken too long.
    pub(crate) fn expire_probe(&self) {
        let consequence = self.lock().breaker.expire_probe();
        self.report_ejection(consequence);
    }

    /// Books what the health service said to a probe.
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

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the breaker says, and the [slowness](OutlierScore::value).
    pub(crate) fn admission_and_score(&self, now: Instant) -> (Admission, Option<f64>) {
        let inner = self.lock();
        (inner.breaker.admission(now), inner.outlier_score.value())
    }

    pub(crate) fn cost(&self, now: Instant) -> f64 {
        self.lock().load.cost(self.in_flight(), now)
    }

    /// Begins a call, unless as many as the cap allows are in in_flight.
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
    /// What was known says nothing about a new connection, nor about a server that is well again.
    fn start_cold(&mut self) {
        self.load = Load::new();
        self.outlier_score = OutlierScore::default();
    }
}

#[cfg(test)]
mod tests;

//! What is known about an address beyond the life of one connection: its load, its breaker, its calls.

mod in_flight;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

pub(crate) use in_flight::{Allowance, Flight, Verdict};
use tokio::{sync::Notify, time::Instant};

use super::{
    Caller,
    breaker::{Admission, Breaker, Consequence, Ejections, Probe},
    load::Load,
    room::Room,
    share::Share,
    slowness::Slowness,
};
use crate::{discovery::Address, telemetry::span};

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
        Some(Flight::new(Arc::clone(self), allowance, probe))
    }
}

impl Record {
    /// What was known says nothing about a new connection, nor about a server that is well again.
    fn start_cold(&mut self) {
        self.load = Load::new();
        self.slowness = Slowness::default();
    }
}

#[cfg(test)]
mod tests;

//! Keeps a connection to every endpoint, and publishes those that are connected.
//!
//! Connections are opened before they are needed. One task supervises a channel; it owns one [`ConnectionTask`]
//! for each address, and all of them end when the channel is dropped. A call that finds no connection brings the
//! next attempt forward to a few seconds at most, so that a long backoff does not prolong an outage by minutes
//! ([`Demand`]).

mod connection_task;
mod demand;
mod health;
mod outlier_sweep;
mod probe;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::{
    connection::Connector,
    discovery::{
        Address, Target,
        subset::{self, Subset},
    },
    endpoint::{
        ChannelInfo, Endpoint, breaker::Ejections, concurrency_limit::ConcurrencyLimit, stats::Stats,
    },
};
use connection_task::{ConnectionTask, Report};
pub(crate) use demand::Demand;

/// Capacity of the queue of reports; connection tasks wait while it is full.
const REPORT_QUEUE: usize = 64;
/// A failing endpoint that has never been ready is logged as a warning only after this.
const STARTUP_GRACE: Duration = Duration::from_secs(10);

/// The connections as calls see them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// Counts the publications of a channel, from 1.
    pub(crate) generation: u64,
    /// The connected endpoints.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Every address, connected or not.
    pub(crate) addresses: Vec<KnownAddress>,
    /// Why nothing is connected, once a connection to every address has failed; `None` before.
    pub(crate) failing: Option<Arc<str>>,
}

/// The state of one address at the time of publication.
#[derive(Clone, Debug)]
pub(crate) struct KnownAddress {
    pub(crate) address: Address,
    pub(crate) stats: Arc<Stats>,
    pub(crate) connected: bool,
    pub(crate) failure: Option<Arc<str>>,
}

/// Maintains the connections of one channel.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) connector: Arc<Connector>,
    pub(crate) channel_info: Arc<ChannelInfo>,
    pub(crate) publish: watch::Sender<Arc<Published>>,
    /// Signalled by calls that find no connected endpoint.
    pub(crate) demand: Arc<Demand>,
    pub(crate) concurrency_limit: Arc<ConcurrencyLimit>,
    pub(crate) ejections: Arc<Ejections>,
    /// The service whose health is watched on every connection; `None`: every connected endpoint is healthy.
    pub(crate) health_service: Option<Arc<str>>,
    pub(crate) subset: Subset,
}

/// The connection task of one address, and its last reported state.
#[derive(Debug)]
struct Entry {
    task: AbortHandle,
    stats: Arc<Stats>,
    connected: Option<Arc<Endpoint>>,
    failure: Option<Arc<str>>,
    /// Since when it has been failing, and whether that was logged as a warning.
    failing: Option<(Instant, bool)>,
    /// It has been ready before.
    was_ready: bool,
}

impl Supervisor {
    /// Maintains connections to the endpoints of `target` until it is dropped.
    pub(crate) async fn run(self, target: Target) {
        let (reports, mut incoming) = mpsc::channel(REPORT_QUEUE);
        let mut tasks = JoinSet::new();
        let mut entries: HashMap<Address, Entry> = HashMap::new();
        let mut next_id = 0;
        let (updates, mut found) = mpsc::channel(1);
        let connection_lost = Arc::new(Notify::new());
        // A task of its own, so that a slow name server does not block the handling of connections.
        tasks.spawn(target.watch(updates, Arc::clone(&connection_lost)));
        tasks.spawn(outlier_sweep::run(
            self.ejections.subscribe(),
            self.publish.subscribe(),
        ));
        let mut no_addresses = None;
        loop {
            tokio::select! {
                Some(update) = found.recv() => {
                    no_addresses = match update {
                        Ok(addresses) => {
                            let addresses = self.select(addresses);
                            self.reconcile(&addresses, &mut entries, &mut tasks, &reports, &mut next_id);
                            addresses.is_empty().then(|| Arc::from("it has no endpoint that is ready"))
                        }
                        Err(reason) => Some(reason),
                    };
                    self.publish(&entries, no_addresses.clone());
                }
                Some(report) = incoming.recv() => {
                    if !matches!(report, Report::Up(_)) {
                        connection_lost.notify_one();
                    }
                    apply(report, &mut entries);
                    self.publish(&entries, no_addresses.clone());
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    /// The addresses to connect to: all of them, or a subset if there are too many.
    fn select(&self, addresses: Vec<Address>) -> Vec<Address> {
        let count = addresses.len();
        if count > subset::MAX_ENDPOINTS {
            tracing::debug!(
                count,
                most = subset::MAX_ENDPOINTS,
                "too many endpoints, connecting to a subset"
            );
        }
        self.subset.select(addresses, subset::MAX_ENDPOINTS)
    }

    /// Starts a connection task for each new address and aborts those of removed addresses. Calls in flight on
    /// their connections are not aborted.
    fn reconcile(
        &self,
        addresses: &[Address],
        entries: &mut HashMap<Address, Entry>,
        tasks: &mut JoinSet<()>,
        reports: &mpsc::Sender<Report>,
        next_id: &mut u64,
    ) {
        entries.retain(|address, entry| {
            let stays = addresses.contains(address);
            if !stays {
                entry.task.abort();
            }
            stays
        });
        for address in addresses {
            *next_id += 1;
            entries.entry(address.clone()).or_insert_with(|| {
                let stats = Arc::new(Stats::new(
                    *next_id,
                    address.clone(),
                    Arc::clone(&self.channel_info),
                    Arc::clone(&self.concurrency_limit),
                    Arc::clone(&self.ejections),
                ));
                let task = ConnectionTask {
                    address: address.clone(),
                    connector: Arc::clone(&self.connector),
                    channel_info: Arc::clone(&self.channel_info),
                    stats: Arc::clone(&stats),
                    health_service: self.health_service.clone(),
                    reports: reports.clone(),
                    demand: Arc::clone(&self.demand),
                };
                Entry {
                    task: tasks.spawn(task.run()),
                    stats,
                    connected: None,
                    failure: None,
                    failing: None,
                    was_ready: false,
                }
            });
        }
    }

    fn publish(&self, entries: &HashMap<Address, Entry>, no_addresses: Option<Arc<str>>) {
        let endpoints: Vec<_> = entries
            .values()
            .filter_map(|entry| entry.connected.clone())
            .collect();
        let addresses = entries.iter().map(|(address, entry)| KnownAddress {
            address: address.clone(),
            stats: Arc::clone(&entry.stats),
            connected: entry.connected.is_some(),
            failure: entry.failure.clone(),
        });
        let addresses = addresses.collect();
        self.ejections.set_connected(endpoints.len());
        let all_failed = endpoints.is_empty() && entries.values().all(|entry| entry.failure.is_some());
        let reason = || entries.values().find_map(|entry| entry.failure.clone());
        let failing = if all_failed {
            no_addresses.or_else(reason)
        } else {
            None
        };
        let generation = self.publish.borrow().generation + 1;
        self.publish.send_replace(Arc::new(Published {
            generation,
            endpoints,
            addresses,
            failing,
        }));
    }
}

impl Entry {
    /// Logs one warning for each series of failures: at once for an endpoint that has been ready before; for one
    /// that is still starting only after `STARTUP_GRACE`.
    fn log_failure(&mut self, address: &Address, reason: &str) {
        let first = self.failing.is_none();
        let (since, warned) = self.failing.get_or_insert_with(|| (Instant::now(), false));
        if !*warned && (self.was_ready || since.elapsed() >= STARTUP_GRACE) {
            *warned = true;
            tracing::warn!(
                server.address = %address.authority,
                network.peer.address = %address.host,
                network.peer.port = address.port,
                error = %reason,
                "endpoint takes no calls"
            );
        } else if first {
            tracing::info!(
                server.address = %address.authority,
                network.peer.address = %address.host,
                network.peer.port = address.port,
                error = %reason,
                "endpoint takes no calls yet"
            );
        }
    }
}

fn apply(report: Report, entries: &mut HashMap<Address, Entry>) {
    match report {
        Report::Up(endpoint) => {
            if let Some(entry) = entries.get_mut(&endpoint.address) {
                tracing::debug!(endpoint = %endpoint.address, "connected");
                entry.connected = Some(endpoint);
                entry.failure = None;
                entry.failing = None;
                entry.was_ready = true;
            }
        }
        Report::Down(address) => {
            if let Some(entry) = entries.get_mut(&address) {
                tracing::debug!(endpoint = %address, "connection ended");
                entry.connected = None;
            }
        }
        Report::Failed(address, reason) => {
            if let Some(entry) = entries.get_mut(&address) {
                entry.connected = None;
                entry.log_failure(&address, &reason);
                entry.failure = Some(reason);
            }
        }
    }
}

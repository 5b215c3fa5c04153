//! Keeps a connection to every endpoint, and publishes those that are connected.
//!
//! Connections are made before they are needed. One task supervises a channel; it owns one task for each
//! address, and all of them end when the channel is dropped. A call that finds nothing connected brings the next attempt
//! forward to a few seconds at most, so that a long backoff does not outlast an outage by minutes ([`Demand`]).

mod connection_task;
mod demand;
mod health;
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

/// Reports that wait to be worked through; tasks wait when there are more.
const REPORT_QUEUE: usize = 64;
/// An endpoint that has never taken a call may need so long before that is worth a warning.
const STARTUP_GRACE: Duration = Duration::from_secs(10);

/// What calls see of the connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Every address, connected or not.
    pub(crate) addresses: Vec<KnownAddress>,
    /// Why nothing is connected, once every address has been tried in vain; `None` while there is hope.
    pub(crate) failing: Option<Arc<str>>,
}

/// One address as it was when it was published.
#[derive(Clone, Debug)]
pub(crate) struct KnownAddress {
    pub(crate) address: Address,
    pub(crate) stats: Arc<Stats>,
    pub(crate) connected: bool,
    pub(crate) failure: Option<Arc<str>>,
}

/// Looks after the endpoints of one channel.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) connector: Arc<Connector>,
    pub(crate) channel_info: Arc<ChannelInfo>,
    pub(crate) publish: watch::Sender<Arc<Published>>,
    /// Calls that found nothing connected.
    pub(crate) demand: Arc<Demand>,
    pub(crate) concurrency_limit: Arc<ConcurrencyLimit>,
    pub(crate) ejections: Arc<Ejections>,
    /// The service whose health is watched on every connection; `None`: connected is healthy.
    pub(crate) health_service: Option<Arc<str>>,
    pub(crate) subset: Subset,
}

/// What is known of one address.
#[derive(Debug)]
struct Entry {
    task: AbortHandle,
    stats: Arc<Stats>,
    connected: Option<Arc<Endpoint>>,
    failure: Option<Arc<str>>,
    /// Since when it takes no calls, and whether that was said as a warning.
    failing: Option<(Instant, bool)>,
    /// It has taken calls before.
    was_ready: bool,
}

impl Supervisor {
    /// Looks after the endpoints of `target` until it is dropped.
    pub(crate) async fn run(self, target: Target) {
        let (reports, mut incoming) = mpsc::channel(REPORT_QUEUE);
        let mut tasks = JoinSet::new();
        let mut entries: HashMap<Address, Entry> = HashMap::new();
        let mut next_id = 0;
        let (updates, mut found) = mpsc::channel(1);
        let connection_lost = Arc::new(Notify::new());
        // Connections are looked after while a slow name server is asked.
        tasks.spawn(target.watch(updates, Arc::clone(&connection_lost)));
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

    /// The addresses to connect to.
    fn select(&self, addresses: Vec<Address>) -> Vec<Address> {
        let count = addresses.len();
        if count > subset::MAX_ENDPOINTS {
            tracing::debug!(
                count,
                most = subset::MAX_ENDPOINTS,
                "this client takes a part of the endpoints"
            );
        }
        self.subset.select(addresses, subset::MAX_ENDPOINTS)
    }

    /// Starts tasks of new addresses and ends those of addresses that are gone. Calls in flight on a
    /// connection that is given up run to their end.
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
        self.publish.send_replace(Arc::new(Published {
            endpoints,
            addresses,
            failing,
        }));
    }
}

impl Entry {
    /// One warning for each row of failures: at once for an endpoint that has taken calls before; for one that is still
    /// starting only when that takes long.
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

//! Keeps a connection to every endpoint, and publishes those that are connected.
//!
//! Connections are made before they are needed. One task supervises a channel; it owns one keeper for each
//! address, and all of them end when the channel is dropped. A call that finds nothing connected brings the next attempt
//! forward to a few seconds at most, so that a long backoff does not outlast an outage by minutes ([`Demand`]).

mod demand;
mod health;
mod keeper;
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
    endpoint::{Caller, Endpoint, breaker::Ejections, room::Room, vitals::Vitals},
};
pub(crate) use demand::Demand;
use keeper::{Keeper, Report};

/// Reports that wait to be worked through; keepers wait when there are more.
const REPORTS: usize = 64;
/// An endpoint that has never taken a call may need so long before that is worth a warning.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// What calls see of the connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Every address, connected or not.
    pub(crate) known: Vec<Known>,
    /// Why nothing is connected, once every address has been tried in vain; `None` while there is hope.
    pub(crate) failing: Option<Arc<str>>,
}

/// One address as it was when it was published.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) address: Address,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) connected: bool,
    pub(crate) failure: Option<Arc<str>>,
}

/// Looks after the endpoints of one channel.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) connector: Arc<Connector>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) publish: watch::Sender<Arc<Published>>,
    /// Calls that found nothing connected.
    pub(crate) demand: Arc<Demand>,
    pub(crate) room: Arc<Room>,
    pub(crate) ejections: Arc<Ejections>,
    /// The service whose health is watched on every connection; `None`: connected is healthy.
    pub(crate) health_service: Option<Arc<str>>,
    pub(crate) subset: Subset,
}

/// What is known of one address.
#[derive(Debug)]
struct Kept {
    task: AbortHandle,
    vitals: Arc<Vitals>,
    connected: Option<Arc<Endpoint>>,
    failure: Option<Arc<str>>,
    /// Since when it takes no calls, and whether that was said as a warning.
    failing: Option<(Instant, bool)>,
    /// It has taken calls before.
    known: bool,
}

impl Supervisor {
    /// Looks after the endpoints of `target` until it is dropped.
    pub(crate) async fn run(self, target: Target) {
        let (reports, mut incoming) = mpsc::channel(REPORTS);
        let mut keepers = JoinSet::new();
        let mut kept: HashMap<Address, Kept> = HashMap::new();
        let mut next_id = 0;
        let (updates, mut found) = mpsc::channel(1);
        let lost = Arc::new(Notify::new());
        // Connections are looked after while a slow name server is asked.
        keepers.spawn(target.follow(updates, Arc::clone(&lost)));
        let mut unknown = None;
        loop {
            tokio::select! {
                Some(update) = found.recv() => {
                    unknown = match update {
                        Ok(addresses) => {
                            let addresses = self.choose(addresses);
                            self.reconcile(&addresses, &mut kept, &mut keepers, &reports, &mut next_id);
                            addresses.is_empty().then(|| Arc::from("it has no endpoint that is ready"))
                        }
                        Err(reason) => Some(reason),
                    };
                    self.publish(&kept, unknown.clone());
                }
                Some(report) = incoming.recv() => {
                    if !matches!(report, Report::Up(_)) {
                        lost.notify_one();
                    }
                    apply(report, &mut kept);
                    self.publish(&kept, unknown.clone());
                }
                Some(_) = keepers.join_next() => {}
            }
        }
    }

    /// The addresses to connect to.
    fn choose(&self, addresses: Vec<Address>) -> Vec<Address> {
        let count = addresses.len();
        if count > subset::MOST {
            tracing::debug!(
                count,
                most = subset::MOST,
                "this client takes a part of the endpoints"
            );
        }
        self.subset.of(addresses, subset::MOST)
    }

    /// Starts keepers of new addresses and ends those of addresses that are gone. Calls in flight on a
    /// connection that is given up run to their end.
    fn reconcile(
        &self,
        addresses: &[Address],
        kept: &mut HashMap<Address, Kept>,
        keepers: &mut JoinSet<()>,
        reports: &mpsc::Sender<Report>,
        next_id: &mut u64,
    ) {
        kept.retain(|address, kept| {
            let stays = addresses.contains(address);
            if !stays {
                kept.task.abort();
            }
            stays
        });
        for address in addresses {
            *next_id += 1;
            kept.entry(address.clone()).or_insert_with(|| {
                let vitals = Arc::new(Vitals::new(
                    *next_id,
                    address.clone(),
                    Arc::clone(&self.caller),
                    Arc::clone(&self.room),
                    Arc::clone(&self.ejections),
                ));
                let keeper = Keeper {
                    address: address.clone(),
                    connector: Arc::clone(&self.connector),
                    caller: Arc::clone(&self.caller),
                    vitals: Arc::clone(&vitals),
                    health_service: self.health_service.clone(),
                    reports: reports.clone(),
                    demand: Arc::clone(&self.demand),
                };
                Kept {
                    task: keepers.spawn(keeper.run()),
                    vitals,
                    connected: None,
                    failure: None,
                    failing: None,
                    known: false,
                }
            });
        }
    }

    fn publish(&self, kept: &HashMap<Address, Kept>, unknown: Option<Arc<str>>) {
        let endpoints: Vec<_> = kept.values().filter_map(|kept| kept.connected.clone()).collect();
        let known = kept.iter().map(|(address, kept)| Known {
            address: address.clone(),
            vitals: Arc::clone(&kept.vitals),
            connected: kept.connected.is_some(),
            failure: kept.failure.clone(),
        });
        let known = known.collect();
        self.ejections.set_connected(endpoints.len());
        let hopeless = endpoints.is_empty() && kept.values().all(|kept| kept.failure.is_some());
        let reason = || kept.values().find_map(|kept| kept.failure.clone());
        let failing = if hopeless { unknown.or_else(reason) } else { None };
        self.publish.send_replace(Arc::new(Published {
            endpoints,
            known,
            failing,
        }));
    }
}

impl Kept {
    /// One warning for each row of failures: at once for an endpoint that has taken calls before; for one that is still
    /// starting only when that takes long.
    fn tell(&mut self, address: &Address, reason: &str) {
        let first = self.failing.is_none();
        let (since, warned) = self.failing.get_or_insert_with(|| (Instant::now(), false));
        if !*warned && (self.known || since.elapsed() >= STARTS_WITHIN) {
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

fn apply(report: Report, kept: &mut HashMap<Address, Kept>) {
    match report {
        Report::Up(endpoint) => {
            if let Some(kept) = kept.get_mut(&endpoint.address) {
                tracing::debug!(endpoint = %endpoint.address, "connected");
                kept.connected = Some(endpoint);
                kept.failure = None;
                kept.failing = None;
                kept.known = true;
            }
        }
        Report::Down(address) => {
            if let Some(kept) = kept.get_mut(&address) {
                tracing::debug!(endpoint = %address, "connection ended");
                kept.connected = None;
            }
        }
        Report::Failed(address, reason) => {
            if let Some(kept) = kept.get_mut(&address) {
                kept.connected = None;
                kept.tell(&address, &reason);
                kept.failure = Some(reason);
            }
        }
    }
}

//! Keeps one address connected: connects, and reconnects with backoff.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    demand::{Demand, MinWait},
    health::{self, Health},
    probe,
};
use crate::{
    connection::Connector,
    discovery::Address,
    endpoint::{ChannelInfo, Endpoint, stats::Stats},
    failure::error_chain,
    retry::backoff::jitter,
};

const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(120);
const BACKOFF_FACTOR: f64 = 1.6;
/// A connection that ends sooner was refused. A server may close a good one within less than a second.
const MIN_LIFETIME: Duration = Duration::from_millis(500);

/// A change reported to the supervisor.
#[derive(Debug)]
pub(super) enum Report {
    Up(Arc<Endpoint>),
    Down(Address),
    Failed(Address, Arc<str>),
}

/// Connects to one address, waits for the connection's end, and reconnects.
#[derive(Debug)]
pub(super) struct ConnectionTask {
    pub(super) address: Address,
    pub(super) connector: Arc<Connector>,
    pub(super) channel_info: Arc<ChannelInfo>,
    pub(super) stats: Arc<Stats>,
    pub(super) health_service: Option<Arc<str>>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) demand: Arc<Demand>,
}

impl ConnectionTask {
    /// Runs until it is aborted or its supervisor has ended.
    pub(super) async fn run(self) {
        let (mut backoff, mut min_wait) = (INITIAL_BACKOFF, MinWait::new());
        let mut permit = None;
        loop {
            let started = Instant::now();
            let allows_pings = self.stats.allows_pings();
            let opened = self.connector.open(&self.address, allows_pings).await;
            drop(permit.take());
            let report = match opened {
                Ok(connected) => {
                    self.stats.reconnected(connected.peer);
                    let (address, stats) = (self.address.clone(), Arc::clone(&self.stats));
                    let activity = Arc::clone(&connected.activity);
                    let connection = (connected.sender, connected.activity, connected.peer);
                    let endpoint = Endpoint::new(address, stats, connection, Arc::clone(&self.channel_info));
                    let endpoint = Arc::new(endpoint);
                    let ended = tokio::select! {
                        ended = connected.driver => ended,
                        () = self.publish(Arc::clone(&endpoint)) => return,
                        () = self.probe(endpoint) => return,
                    };
                    if activity.pinged_too_often() {
                        self.back_off_pings();
                    }
                    self.report_end(started.elapsed(), ended)
                }
                Err(error) => Report::Failed(self.address.clone(), Arc::from(error_chain(&error))),
            };
            let lost = matches!(report, Report::Down(_));
            if self.reports.send(report).await.is_err() {
                return;
            }
            // A connection that lasted is replaced at once; one that was refused is replaced after the backoff.
            if lost {
                (backoff, min_wait) = (INITIAL_BACKOFF, MinWait::new());
                continue;
            }
            permit = self.demand.wait(jitter(backoff), &mut min_wait).await;
            backoff = backoff.mul_f64(BACKOFF_FACTOR).min(MAX_BACKOFF);
        }
    }

    /// Lengthens the ping interval after the server has closed the connection because of too many pings.
    fn back_off_pings(&self) {
        self.stats.set_allows_pings(false);
        let factor = self.connector.ping_backoff.double();
        tracing::warn!(
            server.address = %self.address.authority,
            network.peer.address = %self.address.host,
            network.peer.port = self.address.port,
            factor,
            "too_many_pings: the server closed the connection, the interval between pings is multiplied"
        );
    }

    /// The report of a connection's end. One that ends as soon as it is established was refused, such as by a
    /// server that rejects our certificate.
    fn report_end(&self, age: Duration, ended: hyper::Result<()>) -> Report {
        if age >= MIN_LIFETIME {
            return Report::Down(self.address.clone());
        }
        let reason = match ended {
            Ok(()) => "the server closed the connection at once".to_owned(),
            Err(error) => error_chain(&error),
        };
        Report::Failed(self.address.clone(), Arc::from(reason))
    }

    /// Reports a connected endpoint while it is healthy. Returns only when the supervisor has ended.
    async fn publish(&self, endpoint: Arc<Endpoint>) {
        let Some(service) = &self.health_service else {
            if self.reports.send(Report::Up(endpoint)).await.is_ok() {
                std::future::pending::<()>().await;
            }
            return;
        };
        health::watch(Arc::clone(&endpoint), service, |health| {
            let report = match health {
                Health::Serving => Report::Up(Arc::clone(&endpoint)),
                Health::NotServing(reason) => Report::Failed(self.address.clone(), Arc::from(reason)),
            };
            async move { self.reports.send(report).await.is_ok() }
        })
        .await;
        if !self.reports.is_closed() {
            std::future::pending::<()>().await;
        }
    }

    async fn probe(&self, endpoint: Arc<Endpoint>) {
        let service = self.health_service.as_deref().unwrap_or_default();
        probe::run(endpoint, service).await;
    }
}

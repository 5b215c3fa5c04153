//! Keeps one address connected.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    demand::{Demand, Waits},
    health::{self, Health},
    probe,
};
use crate::{
    connection::Connector,
    discovery::Address,
    endpoint::{Caller, Endpoint, vitals::Vitals},
    failure::chain,
    retry::backoff::jitter,
};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(120);
const FACTOR: f64 = 1.6;
/// A connection that ends sooner was refused. Servers may give a good one less than a second.
const REFUSED: Duration = Duration::from_millis(500);

/// What a keeper tells its supervisor.
#[derive(Debug)]
pub(super) enum Report {
    Up(Arc<Endpoint>),
    Down(Address),
    Failed(Address, Arc<str>),
}

/// Connects, waits for the connection's end, and connects again.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) address: Address,
    pub(super) connector: Arc<Connector>,
    pub(super) caller: Arc<Caller>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) health_service: Option<Arc<str>>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) demand: Arc<Demand>,
}

impl Keeper {
    /// Runs until it is aborted or its supervisor is gone.
    pub(super) async fn run(self) {
        let (mut backoff, mut waits) = (FIRST, Waits::new());
        let mut turn = None;
        loop {
            let started = Instant::now();
            let bears_pings = self.vitals.bears_pings();
            let opened = self.connector.open(&self.address, bears_pings).await;
            drop(turn.take());
            let report = match opened {
                Ok(connected) => {
                    self.vitals.reconnected(connected.peer);
                    let (address, vitals) = (self.address.clone(), Arc::clone(&self.vitals));
                    let pulse = Arc::clone(&connected.pulse);
                    let connection = (connected.sender, connected.pulse, connected.peer);
                    let endpoint = Endpoint::new(address, vitals, connection, Arc::clone(&self.caller));
                    let endpoint = Arc::new(endpoint);
                    let ended = tokio::select! {
                        ended = connected.driver => ended,
                        () = self.publish(Arc::clone(&endpoint)) => return,
                        () = self.probe(endpoint) => return,
                    };
                    if pulse.pinged_too_often() {
                        self.restrain();
                    }
                    self.lost(started.elapsed(), ended)
                }
                Err(error) => Report::Failed(self.address.clone(), Arc::from(chain(&error))),
            };
            let lost = matches!(report, Report::Down(_));
            if self.reports.send(report).await.is_err() {
                return;
            }
            // A connection that lasted is replaced at once; one that is closed as soon as it is made is not.
            if lost {
                (backoff, waits) = (FIRST, Waits::new());
                continue;
            }
            turn = self.demand.wait(jitter(backoff), &mut waits).await;
            backoff = backoff.mul_f64(FACTOR).min(LONGEST);
        }
    }

    /// The other end does not bear the pings that it gets.
    fn restrain(&self) {
        self.vitals.set_bears_pings(false);
        let factor = self.connector.restraint.double();
        tracing::warn!(
            server.address = %self.address.authority,
            network.peer.address = %self.address.host,
            network.peer.port = self.address.port,
            factor,
            "too_many_pings: the server closed the connection, the interval between pings is multiplied"
        );
    }

    /// What the end of a connection means. One that ends as soon as it is made was refused, such as by a
    /// server that does not like our certificate.
    fn lost(&self, age: Duration, ended: hyper::Result<()>) -> Report {
        if age >= REFUSED {
            return Report::Down(self.address.clone());
        }
        let reason = match ended {
            Ok(()) => "the server closed the connection at once".to_owned(),
            Err(error) => chain(&error),
        };
        Report::Failed(self.address.clone(), Arc::from(reason))
    }

    /// Publishes a connected endpoint while it is healthy. Returns only when nobody listens any more.
    async fn publish(&self, endpoint: Arc<Endpoint>) {
        let Some(service) = &self.health_service else {
            if self.reports.send(Report::Up(endpoint)).await.is_ok() {
                std::future::pending::<()>().await;
            }
            return;
        };
        health::follow(Arc::clone(&endpoint), service, |health| {
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
        probe::follow(endpoint, service).await;
    }
}

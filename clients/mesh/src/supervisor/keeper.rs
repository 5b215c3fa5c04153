//! Keeps one address connected.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};

use super::health::{self, Health};
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
/// Waiting calls bring the next attempt forward to this long after the last one.
const LEAST: Duration = Duration::from_millis(500);
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
    pub(super) demand: Arc<Notify>,
}

impl Keeper {
    /// Runs until it is aborted or its supervisor is gone.
    pub(super) async fn run(self) {
        let mut backoff = FIRST;
        loop {
            let started = Instant::now();
            let report = match self.connector.open(&self.address).await {
                Ok(connected) => {
                    self.vitals.reconnected();
                    let (address, vitals) = (self.address.clone(), Arc::clone(&self.vitals));
                    let connection = (connected.sender, connected.pulse);
                    let endpoint = Endpoint::new(address, vitals, connection, Arc::clone(&self.caller));
                    let ended = tokio::select! {
                        ended = connected.driver => ended,
                        () = self.publish(Arc::new(endpoint)) => return,
                    };
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
                backoff = FIRST;
                continue;
            }
            self.wait(jitter(backoff)).await;
            backoff = backoff.mul_f64(FACTOR).min(LONGEST);
        }
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

    async fn wait(&self, backoff: Duration) {
        let called_for = async {
            let mut demand = std::pin::pin!(self.demand.notified());
            // Calls that ask during the least wait count as well.
            demand.as_mut().enable();
            sleep(LEAST.min(backoff)).await;
            demand.await;
        };
        tokio::select! {
            () = sleep(backoff) => {}
            () = called_for => {}
        }
    }
}

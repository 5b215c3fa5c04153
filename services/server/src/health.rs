//! The health of the process: started, alive, ready.
//!
//! Liveness never depends on a dependency: restarting a process does not repair its database. Readiness follows
//! every registered dependency, and ends with the drain.

mod probe;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub(crate) use probe::serve as serve_probes;
use serde::{Deserialize, Serialize};
pub(crate) use service::HealthService;
use tokio::{sync::watch, time::Instant};

/// While a dependency is down, a changed reason is logged at most once in this time.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(5);

/// The probe port: plaintext, health only.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The address to listen on; port 0 takes a free one. Default 127.0.0.1:7201.
    pub listen: SocketAddr,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 7201)),
        }
    }
}

impl Settings {
    /// The defaults on another port of 127.0.0.1.
    pub fn on_port(port: u16) -> Settings {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }
}

/// The health of the process. Cheap to clone. At first it is alive, not started and not ready.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    started: bool,
    draining: bool,
    /// Open watches end.
    closed: bool,
    dependencies: BTreeMap<String, bool>,
    services: BTreeSet<String>,
}

/// The result of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Calls are served.
    Serving,
    /// Calls are not served now.
    NotServing,
    /// The process does not serve this service.
    Unknown,
}

/// A dependency of readiness. It is down until [`Dependency::up`] is called.
#[derive(Clone, Debug)]
pub struct Dependency {
    name: Arc<str>,
    state: Arc<watch::Sender<State>>,
    /// The reason that was logged last, and when. At first it is empty, with the time of registration: a
    /// dependency has five seconds to come up before it is logged as down.
    logged: Arc<Mutex<(String, Instant)>>,
}

impl Health {
    /// A process that has just started.
    pub fn new() -> Health {
        Health {
            state: Arc::new(watch::Sender::new(State::default())),
        }
    }

    /// Makes readiness depend on `name` from now on.
    pub fn dependency(&self, name: impl Into<Arc<str>>) -> Dependency {
        let dependency = Dependency {
            name: name.into(),
            state: self.state.clone(),
            logged: Arc::new(Mutex::new((String::new(), Instant::now()))),
        };
        dependency.set(false);
        dependency
    }

    /// The result of a check of `service`: `startup`, `liveness`, `readiness`, the empty name, or a mounted
    /// `package.Service`.
    pub fn status(&self, service: &str) -> Status {
        self.state.borrow().status(service)
    }

    /// The dependencies that are down, by name.
    pub fn down(&self) -> Vec<String> {
        let state = self.state.borrow();
        state
            .dependencies
            .iter()
            .filter(|(_, up)| !**up)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Waits until the process is ready.
    pub async fn ready(&self) {
        // The sender lives in `self`, so this ends only when the process is ready.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.status("readiness") == Status::Serving)
            .await;
    }

    pub(crate) fn mounted(&self, services: impl IntoIterator<Item = String>) {
        self.state.send_modify(|state| state.services.extend(services));
    }

    /// Reports that the process has started. [`Server::serve`](crate::Server::serve) does it.
    pub fn started(&self) {
        self.state.send_modify(|state| state.started = true);
    }

    pub(crate) fn draining(&self) {
        self.state.send_modify(|state| state.draining = true);
    }

    pub(crate) fn closed(&self) {
        self.state.send_modify(|state| state.closed = true);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}

impl Dependency {
    /// Reports that the dependency is available.
    pub fn up(&self) {
        if self.set(true) {
            tracing::info!(dependency.name = %self.name, "a dependency is up");
        }
    }

    /// Reports that the dependency is unavailable, and why. Logged on the change, and when the reason changes, at
    /// most once in five seconds: a server that was restarted may now reject the password.
    pub fn down(&self, reason: &dyn std::fmt::Display) {
        let reason = reason.to_string();
        if self.should_log(&reason) {
            tracing::warn!(dependency.name = %self.name, error.message = reason, "a dependency is down");
        }
    }

    /// Marks the dependency as down, and returns whether to log the reason.
    fn should_log(&self, reason: &str) -> bool {
        let was_up = self.set(false);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, at) = &*logged;
        let should_log = was_up || (before != reason && at.elapsed() >= MIN_LOG_INTERVAL);
        if should_log {
            *logged = (reason.to_owned(), Instant::now());
        }
        should_log
    }

    /// Whether it was last reported to be up.
    pub fn is_up(&self) -> bool {
        self.state
            .borrow()
            .dependencies
            .get(&*self.name)
            .copied()
            .unwrap_or(false)
    }

    fn set(&self, up: bool) -> bool {
        self.state
            .send_if_modified(|state| state.dependencies.insert(self.name.to_string(), up) != Some(up))
    }
}

impl State {
    pub(crate) fn status(&self, service: &str) -> Status {
        let holds = match service {
            "liveness" => true,
            "startup" => self.started,
            "" | "readiness" => self.ready(),
            mounted if self.services.contains(mounted) => self.ready(),
            _ => return Status::Unknown,
        };
        if holds {
            Status::Serving
        } else {
            Status::NotServing
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn ready(&self) -> bool {
        self.started && !self.draining && self.dependencies.values().all(|up| *up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_every_dependency_and_liveness_none() {
        let health = Health::new();
        let postgres = health.dependency("postgresql");
        let nats = health.dependency("nats");
        health.mounted(["order.v1.OrderService".to_owned()]);
        assert_eq!(health.status("startup"), Status::NotServing);
        health.started();
        postgres.up();
        assert_eq!(health.status("readiness"), Status::NotServing);
        assert_eq!(health.down(), ["nats"]);
        nats.up();
        for service in ["startup", "liveness", "readiness", "", "order.v1.OrderService"] {
            assert_eq!(health.status(service), Status::Serving, "{service}");
        }
        postgres.down(&"connection refused");
        assert_eq!(health.status("readiness"), Status::NotServing);
        assert_eq!(health.status("order.v1.OrderService"), Status::NotServing);
        assert_eq!(health.status("liveness"), Status::Serving);
        assert_eq!(health.status("startup"), Status::Serving);
        assert_eq!(health.status("claims.v1.ClaimService"), Status::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_reason_of_a_dependency_that_stays_down_is_logged_once_in_five_seconds() {
        let postgres = Health::new().dependency("postgresql");
        assert!(
            !postgres.should_log("connection refused"),
            "it may come up in a moment"
        );
        tokio::time::advance(MIN_LOG_INTERVAL).await;
        assert!(postgres.should_log("connection refused"));
        assert!(!postgres.should_log("wrong password"));
        tokio::time::advance(MIN_LOG_INTERVAL).await;
        assert!(!postgres.should_log("connection refused"));
        assert!(postgres.should_log("wrong password"));
        postgres.up();
        assert!(postgres.should_log("wrong password"));
    }

    #[test]
    fn a_draining_process_is_alive_and_not_ready() {
        let health = Health::new();
        health.started();
        health.draining();
        assert_eq!(health.status(""), Status::NotServing);
        assert_eq!(health.status("liveness"), Status::Serving);
    }
}

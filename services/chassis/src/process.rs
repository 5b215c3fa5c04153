//! The running process: what a service's code works with.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::{
    Health, Tasks, audit, contract, drain, health, idempotency,
    postgres::{self, Database},
    retention,
};

/// The environment variable that allows fault injection. It is not a setting, so that a file written for a failure
/// test is rejected in other environments.
pub(crate) const ALLOW_FAULTS: &str = "WEFT_ALLOW_FAULTS";

/// Only `true` allows it.
pub(crate) fn allows_faults(value: Option<&str>) -> bool {
    value == Some("true")
}

/// The running process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Process {
    /// The service's name.
    pub name: &'static str,
    /// Cancelled when the process must stop: no new work is started.
    pub shutdown: CancellationToken,
    /// Cancelled when the server has answered all accepted calls: work that responses wait for, such as a saga's
    /// steps, continues until then.
    pub drained: CancellationToken,
    /// Its background work.
    pub tasks: Tasks,
    /// The health of the process.
    pub health: Health,
    /// The contract's policies for calls.
    pub policies: mesh::Policies,
    pub(crate) settings: Arc<ProcessSettings>,
    pub(crate) channels: Channels,
    /// Whether upstreams may set `tuning.inject`.
    pub(crate) allows_faults: bool,
    pub(crate) database: Arc<OnceLock<Database>>,
}

/// The sections of the settings that the process itself uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessSettings {
    pub(crate) address_file: Option<PathBuf>,
    pub(crate) probe: health::Settings,
    pub(crate) idempotency: idempotency::Settings,
    pub(crate) audit: audit::Settings,
    pub(crate) drain: drain::Settings,
}

/// The process's channels to other services, for `ops.v1.MeshService`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Channels(Arc<Mutex<Vec<mesh::Channel>>>);

impl Channels {
    pub(crate) fn add(&self, channel: mesh::Channel) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(channel);
    }

    pub(crate) fn snapshots(&self) -> Vec<mesh::Snapshot> {
        let channels = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        channels.iter().map(mesh::Channel::snapshot).collect()
    }
}

impl Process {
    pub(crate) fn new(name: &'static str, settings: ProcessSettings) -> Result<Process, mesh::Error> {
        let shutdown = CancellationToken::new();
        Ok(Process {
            name,
            tasks: Tasks::new(shutdown.clone()),
            shutdown,
            drained: CancellationToken::new(),
            health: Health::new(),
            policies: mesh::Policies::from_descriptors(contract::schema())?,
            settings: Arc::new(settings),
            channels: Channels::default(),
            allows_faults: allows_faults(std::env::var(ALLOW_FAULTS).ok().as_deref()),
            database: Arc::default(),
        })
    }

    /// Connects the service's database: see [`Database`]. Also starts monitoring it, and deleting old responses and
    /// audit records. A service starts while its database is down, and becomes ready when it is up.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn connect_database(&self, settings: &postgres::Settings) -> Result<Database, sqlx::Error> {
        let dependency = self.health.dependency(postgres::DEPENDENCY);
        let (database, watching) = Database::connect(settings, self.name, dependency, self.shutdown.clone())?;
        // A process has one database. A second one, in tests, is not used for the audit trail.
        let _ = self.database.set(database.clone());
        self.tasks.spawn("postgresql watch", async move {
            watching.await;
            Ok(())
        });
        let rules = vec![self.settings.idempotency.rule(), self.settings.audit.rule()];
        retention::start(&self.tasks, database.pool(), self.sweep_interval(), rules);
        Ok(database)
    }

    /// The time between two runs of the deletion of old rows.
    pub fn sweep_interval(&self) -> std::time::Duration {
        self.settings.idempotency.sweep_interval()
    }

    pub(crate) fn database(&self) -> Option<&Database> {
        self.database.get()
    }
}

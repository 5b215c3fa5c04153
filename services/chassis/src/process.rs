//! The running process: what a service's code works with.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::{Health, Sections, Tasks, audit, drain, health, idempotency, postgres::Database, upstream};

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
    /// A process with these sections. [`run`](crate::run()) creates it for services; tests create their own.
    ///
    /// # Errors
    /// When the contract's policies cannot be read.
    pub fn new(name: &'static str, sections: &Sections<'_>) -> Result<Process, mesh::Error> {
        let shutdown = CancellationToken::new();
        Ok(Process {
            name,
            tasks: Tasks::new(shutdown.clone()),
            shutdown,
            drained: CancellationToken::new(),
            health: Health::new(),
            policies: mesh::Policies::from_descriptors(proto::SCHEMA)?,
            settings: Arc::new(ProcessSettings {
                address_file: sections.address_file.map(PathBuf::from),
                probe: sections.probe.clone(),
                idempotency: sections.idempotency.clone(),
                audit: sections.audit.clone(),
                drain: sections.drain.clone(),
            }),
            channels: Channels::default(),
            allows_faults: upstream::allows_faults(std::env::var(upstream::ALLOW_FAULTS).ok().as_deref()),
            database: Arc::default(),
        })
    }

    /// The time between two runs of the deletion of old rows.
    pub fn sweep_interval(&self) -> std::time::Duration {
        self.settings.idempotency.sweep_interval()
    }

    pub(crate) fn database(&self) -> Option<&Database> {
        self.database.get()
    }
}

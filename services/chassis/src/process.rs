//! What a service's code gets to run with.

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
    /// Cancelled when the process is to stop: nothing new is begun.
    pub shutdown: CancellationToken,
    /// Cancelled when the server has answered all that it took: work that answers wait for, a saga's steps for one,
    /// goes on until then.
    pub drained: CancellationToken,
    /// Its background work.
    pub tasks: Tasks,
    /// What it says about itself.
    pub health: Health,
    /// How methods may be called.
    pub policies: mesh::Policies,
    pub(crate) settings: Arc<ProcessSettings>,
    pub(crate) channels: Channels,
    /// Whether upstreams may have `tuning.inject`.
    pub(crate) allows_faults: bool,
    pub(crate) database: Arc<OnceLock<Database>>,
}

/// The sections that the process acts on by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessSettings {
    pub(crate) address_file: Option<PathBuf>,
    pub(crate) probe: health::Settings,
    pub(crate) idempotency: idempotency::Settings,
    pub(crate) audit: audit::Settings,
    pub(crate) drain: drain::Settings,
}

/// The channels that the process calls by, for those who watch.
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
    /// A process made of these sections. Services get theirs from [`run`](crate::run()); tests make one.
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

    /// The time between two sweeps of what is deleted by age.
    pub fn sweep_interval(&self) -> std::time::Duration {
        self.settings.idempotency.sweep_interval()
    }

    pub(crate) fn database(&self) -> Option<&Database> {
        self.database.get()
    }
}

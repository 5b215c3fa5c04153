use std::time::Duration;

use crate::workspace::Workspace;

/// How to start the system.
pub(crate) struct Options {
    pub(crate) workspace: Workspace,
    /// Use any free ports for the services.
    pub(crate) free_ports: bool,
    /// The lifetime of certificates; `None` without mutual TLS.
    pub(crate) certificate_ttl: Option<Duration>,
    /// Print no progress.
    pub(crate) quiet: bool,
}

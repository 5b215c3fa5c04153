//! How a process stops: it says so, stops accepting, finishes what it took, and flushes, in bounded time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Violations;

/// How long each step of stopping may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Milliseconds between saying NOT_SERVING and refusing connections, for callers to look away. Default 200.
    pub announce_ms: u64,
    /// Milliseconds that calls and background work get to finish, in all. Default 20000, at most 300000.
    pub grace_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            announce_ms: 200,
            grace_ms: 20_000,
        }
    }
}

impl Settings {
    /// From NOT_SERVING to the last accepted connection.
    pub fn announce(&self) -> Duration {
        Duration::from_millis(self.announce_ms)
    }

    /// The bound on finishing what was taken.
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }

    pub(crate) fn check(&self, violations: &mut Violations) {
        violations.require(self.grace_ms <= 300_000, "grace_ms", "must be at most 300000");
        violations.require(self.announce_ms <= 30_000, "announce_ms", "must be at most 30000");
    }
}

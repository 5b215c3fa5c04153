//! Graceful shutdown in bounded time: report NOT_SERVING, stop accepting, finish accepted work, flush.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Violations;

/// The time limit of each step of the shutdown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Milliseconds between reporting NOT_SERVING and refusing connections, so that callers can switch. Default
    /// 200.
    pub announce_ms: u64,
    /// Milliseconds for calls and background work to finish, in total. Default 20000, at most 300000.
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
    /// The time from NOT_SERVING to the last accepted connection.
    pub fn announce(&self) -> Duration {
        Duration::from_millis(self.announce_ms)
    }

    /// The time limit for finishing accepted work.
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }

    /// Reports the settings that are out of bounds.
    pub fn check(&self, violations: &mut Violations) {
        violations.require(self.grace_ms <= 300_000, "grace_ms", "must be at most 300000");
        violations.require(self.announce_ms <= 30_000, "announce_ms", "must be at most 30000");
    }
}

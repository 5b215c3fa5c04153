//! Settings: how long the audit trail is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Violations, retention::Rule};

/// How long the audit trail is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Days that a record is kept, 30 at least. Default 400: more than a year.
    pub keep_days: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { keep_days: 400 }
    }
}

impl Settings {
    pub(crate) fn rule(&self) -> Rule {
        Rule {
            table: "chassis.audit",
            function: "chassis.prune_audit",
            keep: Duration::from_secs(u64::from(self.keep_days) * 86_400),
        }
    }

    pub(crate) fn check(&self, violations: &mut Violations) {
        violations.require(self.keep_days >= 30, "keep_days", "must be at least 30");
    }
}

//! The settings, with their units, defaults and bounds.

use std::{path::PathBuf, time::Duration};

use chassis::{Sections, Violations};
use serde::{Deserialize, Serialize};

/// The claims service's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The file to which the bound addresses are written once the process listens.
    pub address_file: Option<PathBuf>,
    pub grpc: chassis::server::Settings,
    pub probe: chassis::health::Settings,
    pub database: chassis::postgres::Settings,
    pub auth: chassis::auth::Settings,
    pub idempotency: chassis::idempotency::Settings,
    pub audit: chassis::audit::Settings,
    pub telemetry: chassis::telemetry::Settings,
    pub drain: chassis::drain::Settings,
    pub events: events::Settings,
    pub post_office: PostOffice,
    pub sandbox: Sandbox,
    pub import: Import,
}

/// Calls to the post office.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostOffice {
    /// The timeout of one call in milliseconds; the caller's deadline may shorten it. 100 to 60,000, default
    /// 5,000.
    pub timeout_ms: u64,
    /// Milliseconds between polls for claims that wait for the post office. 10 to 60,000, default 250.
    pub poll_ms: u64,
    /// Milliseconds before the next call about an undecided claim, doubled after each attempt. 10 to 3,600,000,
    /// default 1,000.
    pub ask_again_ms: u64,
    /// The largest delay before the next call in milliseconds. `ask_again_ms` to 86,400,000, default 900,000.
    pub ask_again_max_ms: u64,
    /// Claims that the background worker processes at once, at most half of them of one payer. 1 to 64, default 4.
    pub concurrency: u16,
}

/// The built-in sandbox post office.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// How many calls for a submission to `SANDBOX-DOWN` fail before it is accepted. 0 to 1,000, default 2.
    pub down_calls: u16,
    /// The latency of `SANDBOX-SLOW` in milliseconds. 0 to 600,000, default 1,000.
    pub slow_ms: u64,
    /// Milliseconds until a submission to `SANDBOX-PENDING` is accepted. 0 to 600,000, default 1,000.
    pub acknowledge_after_ms: u64,
}

/// Import of remittance files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Import {
    /// The folder for temporary files of imports. Nothing remains there. Empty means the system's temporary
    /// folder.
    pub spool_folder: PathBuf,
    /// The largest file size in bytes. 1,024 to 1,073,741,824, default 67,108,864.
    pub max_file_bytes: u64,
    /// Claims of one file that are booked at once; each uses a database connection. 1 to 64, default 4.
    pub concurrency: u16,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            address_file: None,
            grpc: chassis::server::Settings::on_port(7103),
            probe: chassis::health::Settings::on_port(7203),
            database: chassis::postgres::Settings::for_service("claims"),
            auth: chassis::auth::Settings::default(),
            idempotency: chassis::idempotency::Settings::default(),
            audit: chassis::audit::Settings::default(),
            telemetry: chassis::telemetry::Settings::default(),
            drain: chassis::drain::Settings::default(),
            events: events::Settings::default(),
            post_office: PostOffice::default(),
            sandbox: Sandbox::default(),
            import: Import::default(),
        }
    }
}

impl Default for PostOffice {
    fn default() -> PostOffice {
        PostOffice {
            timeout_ms: 5_000,
            poll_ms: 250,
            ask_again_ms: 1_000,
            ask_again_max_ms: 900_000,
            concurrency: 4,
        }
    }
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox {
            down_calls: 2,
            slow_ms: 1_000,
            acknowledge_after_ms: 1_000,
        }
    }
}

impl Default for Import {
    fn default() -> Import {
        Import {
            spool_folder: PathBuf::new(),
            max_file_bytes: 64 << 20,
            concurrency: 4,
        }
    }
}

impl chassis::Settings for Settings {
    fn sections(&self) -> Sections<'_> {
        chassis::sections!(self)
    }

    fn check(&self, violations: &mut Violations) {
        violations.within("events", |violations| {
            for found in self.events.check() {
                violations.add(found.setting, found.problem);
            }
        });
        violations.within("post_office", |violations| self.post_office.check(violations));
        violations.within("sandbox", |violations| self.sandbox.check(violations));
        violations.within("import", |violations| self.import.check(violations));
    }
}

impl PostOffice {
    /// The timeout of one call.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    fn check(&self, violations: &mut Violations) {
        violations.require(
            (100..=60_000).contains(&self.timeout_ms),
            "timeout_ms",
            "must be 100 to 60000",
        );
        violations.require(
            (10..=60_000).contains(&self.poll_ms),
            "poll_ms",
            "must be 10 to 60000",
        );
        let is_valid = (10..=3_600_000).contains(&self.ask_again_ms);
        violations.require(is_valid, "ask_again_ms", "must be 10 to 3600000");
        violations.require(
            (self.ask_again_ms..=86_400_000).contains(&self.ask_again_max_ms),
            "ask_again_max_ms",
            "must be ask_again_ms to 86400000",
        );
        violations.require(
            (1..=64).contains(&self.concurrency),
            "concurrency",
            "must be 1 to 64",
        );
    }
}

impl Sandbox {
    fn check(&self, violations: &mut Violations) {
        violations.require(self.down_calls <= 1_000, "down_calls", "must be 0 to 1000");
        violations.require(self.slow_ms <= 600_000, "slow_ms", "must be 0 to 600000");
        let is_valid = self.acknowledge_after_ms <= 600_000;
        violations.require(is_valid, "acknowledge_after_ms", "must be 0 to 600000");
    }
}

impl Import {
    fn check(&self, violations: &mut Violations) {
        let is_valid = (1 << 10..=1 << 30).contains(&self.max_file_bytes);
        violations.require(is_valid, "max_file_bytes", "must be 1024 to 1073741824");
        violations.require(
            (1..=64).contains(&self.concurrency),
            "concurrency",
            "must be 1 to 64",
        );
        let folder = &self.spool_folder;
        let exists = folder.as_os_str().is_empty() || folder.is_dir();
        violations.require(exists, "spool_folder", "must be a folder that exists");
    }
}

#[cfg(test)]
mod tests {
    use chassis::Settings as _;

    use super::*;

    #[test]
    fn every_invalid_setting_is_reported() {
        let mut settings = Settings::default();
        settings.post_office.timeout_ms = 1;
        settings.sandbox.down_calls = 9_999;
        settings.import.concurrency = 0;
        let mut violations = Violations::new();
        settings.check(&mut violations);
        let fields: Vec<_> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(
            fields,
            [
                "post_office.timeout_ms",
                "sandbox.down_calls",
                "import.concurrency"
            ]
        );
    }
}

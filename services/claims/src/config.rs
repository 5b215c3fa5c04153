//! Every setting: its unit, its default, its check.

use std::{path::PathBuf, time::Duration};

use chassis::{Sections, Violations};
use serde::{Deserialize, Serialize};

/// The claims service's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A file that gets the bound addresses once the process listens.
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

/// How the post office is talked to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostOffice {
    /// Milliseconds that one exchange may take; less when the caller has less. 100 to 60,000, default 5,000.
    pub timeout_ms: u64,
    /// Milliseconds between looks for claims that wait for the post office. 10 to 60,000, default 250.
    pub poll_ms: u64,
    /// Milliseconds before the post office is asked again about a claim; twice as long after each try. 10 to 3,600,000,
    /// default 1,000.
    pub ask_again_ms: u64,
    /// The most milliseconds before it is asked again. `ask_again_ms` to 86,400,000, default 900,000.
    pub ask_again_max_ms: u64,
    /// Claims followed up at once, at most half of them of one payer. 1 to 64, default 4.
    pub concurrency: u16,
}

/// The built-in sandbox post office.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// How often a submission for `SANDBOX-DOWN` finds nobody before it is taken. 0 to 1,000, default 2.
    pub down_calls: u16,
    /// Milliseconds that `SANDBOX-SLOW` takes. 0 to 600,000, default 1,000.
    pub slow_ms: u64,
    /// Milliseconds until `SANDBOX-PENDING` is acknowledged. 0 to 600,000, default 1,000.
    pub acknowledge_after_ms: u64,
}

/// How remittance files are imported.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Import {
    /// Where files are kept while they are read; nothing is left there. Empty: the system's temporary folder.
    pub spool_folder: PathBuf,
    /// The largest file in bytes. 1,024 to 1,073,741,824, default 67,108,864.
    pub max_file_bytes: u64,
    /// Claims of one file booked at once; each takes a database connection. 1 to 64, default 4.
    pub concurrency: u16,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            address_file: None,
            grpc: chassis::server::Settings::on_port(7103),
            probe: chassis::health::Settings::on_port(7203),
            database: chassis::postgres::Settings::of("claims"),
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
        Sections {
            address_file: self.address_file.as_deref(),
            grpc: &self.grpc,
            probe: &self.probe,
            database: &self.database,
            auth: &self.auth,
            idempotency: &self.idempotency,
            audit: &self.audit,
            telemetry: &self.telemetry,
            drain: &self.drain,
        }
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
    /// The longest exchange.
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
        let again = (10..=3_600_000).contains(&self.ask_again_ms);
        violations.require(again, "ask_again_ms", "must be 10 to 3600000");
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
        let acknowledged = self.acknowledge_after_ms <= 600_000;
        violations.require(acknowledged, "acknowledge_after_ms", "must be 0 to 600000");
    }
}

impl Import {
    fn check(&self, violations: &mut Violations) {
        let largest = (1 << 10..=1 << 30).contains(&self.max_file_bytes);
        violations.require(largest, "max_file_bytes", "must be 1024 to 1073741824");
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
    fn every_bad_setting_is_named() {
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

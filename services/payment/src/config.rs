//! The settings, with their units, defaults and checks.

use std::{path::PathBuf, time::Duration};

use chassis::{Sections, Violations};
use serde::{Deserialize, Serialize};

/// The payment service's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A file that the bound addresses are written to once the process listens.
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
    pub processor: Processor,
    pub authorization: Authorization,
    pub ledger: Ledger,
    pub sandbox: Sandbox,
}

/// Calls to the card processor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Processor {
    /// Milliseconds that one call may take; less if the caller's deadline is earlier. 100 to 60,000, default
    /// 3,000.
    pub timeout_ms: u64,
    /// Milliseconds between two polls for open operations. 10 to 60,000, default 250.
    pub poll_ms: u64,
    /// Milliseconds before the first query for the status of a call; doubled with every further query.
    /// 10 to 60,000, default 500.
    pub ask_again_ms: u64,
    /// The longest delay between two queries in milliseconds. At least `ask_again_ms`, at most 3,600,000,
    /// default 60,000.
    pub ask_again_max_ms: u64,
    /// Operations that are resumed at the same time. 1 to 64, default 8.
    pub resume_concurrency: u16,
}

/// The lifetime of authorizations.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Authorization {
    /// Seconds until an uncaptured authorization lapses. 1 to 2,592,000 (30 days), default 604,800 (7 days).
    pub lifetime_s: u32,
    /// Milliseconds between two sweeps for lapsed authorizations. 10 to 3,600,000, default 10,000.
    pub sweep_ms: u64,
}

/// The ledger's totals.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    /// Milliseconds between two folds of new entries into the totals that make a trial balance fast. 10 to
    /// 3,600,000, default 5,000. It does not affect the exactness of a trial balance.
    pub fold_ms: u64,
}

/// The built-in sandbox processor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// Milliseconds that `tok_slow` takes. 0 to 600,000, default 1,000.
    pub slow_ms: u64,
    /// Milliseconds after which a connection without an answer is closed. 1 to 600,000, default 30,000.
    pub hang_ms: u64,
    /// The maximum number of connections to its own records. 1 to 100, default 8.
    pub max_connections: u32,
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
        violations.within("processor", |violations| self.processor.check(violations));
        violations.within("authorization", |violations| {
            let days = 1..=30 * 24 * 3600;
            let lifetime = days.contains(&self.authorization.lifetime_s);
            violations.require(lifetime, "lifetime_s", "must be 1 to 2592000");
            let sweep = (10..=3_600_000).contains(&self.authorization.sweep_ms);
            violations.require(sweep, "sweep_ms", "must be 10 to 3600000");
        });
        violations.within("ledger", |violations| {
            let fold = (10..=3_600_000).contains(&self.ledger.fold_ms);
            violations.require(fold, "fold_ms", "must be 10 to 3600000");
        });
        violations.within("sandbox", |violations| {
            violations.require(self.sandbox.slow_ms <= 600_000, "slow_ms", "must be 0 to 600000");
            let hang = (1..=600_000).contains(&self.sandbox.hang_ms);
            violations.require(hang, "hang_ms", "must be 1 to 600000");
            let connections = (1..=100).contains(&self.sandbox.max_connections);
            violations.require(connections, "max_connections", "must be 1 to 100");
        });
    }
}

impl Processor {
    fn check(&self, violations: &mut Violations) {
        let longest = self.ask_again_ms..=3_600_000;
        let fits = longest.contains(&self.ask_again_max_ms);
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
        violations.require(
            (10..=60_000).contains(&self.ask_again_ms),
            "ask_again_ms",
            "must be 10 to 60000",
        );
        violations.require(fits, "ask_again_max_ms", "must be ask_again_ms to 3600000");
        let concurrency = (1..=64).contains(&self.resume_concurrency);
        violations.require(concurrency, "resume_concurrency", "must be 1 to 64");
    }

    /// The longest time that one call may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The lease of an operation. It covers two calls, of an authorization and of the capture that follows it, and
    /// the transaction after them.
    pub fn lease(&self) -> Duration {
        self.timeout() * 2 + Duration::from_secs(2)
    }

    /// The delay before the `attempts`th query.
    pub fn query_delay(&self, attempts: u32) -> Duration {
        let doubled = self
            .ask_again_ms
            .saturating_mul(1 << attempts.saturating_sub(1).min(20));
        Duration::from_millis(doubled.min(self.ask_again_max_ms))
    }
}

impl Authorization {
    /// The time until an uncaptured authorization lapses.
    pub fn lifetime(&self) -> time::Duration {
        time::Duration::seconds(self.lifetime_s.into())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address_file: None,
            grpc: chassis::server::Settings::on_port(7102),
            probe: chassis::health::Settings::on_port(7202),
            database: chassis::postgres::Settings::for_service("payment"),
            auth: chassis::auth::Settings::default(),
            idempotency: chassis::idempotency::Settings::default(),
            audit: chassis::audit::Settings::default(),
            telemetry: chassis::telemetry::Settings::default(),
            drain: chassis::drain::Settings::default(),
            events: events::Settings::default(),
            processor: Processor::default(),
            authorization: Authorization::default(),
            ledger: Ledger::default(),
            sandbox: Sandbox::default(),
        }
    }
}

impl Default for Processor {
    fn default() -> Self {
        Self {
            timeout_ms: 3_000,
            poll_ms: 250,
            ask_again_ms: 500,
            ask_again_max_ms: 60_000,
            resume_concurrency: 8,
        }
    }
}

impl Default for Authorization {
    fn default() -> Self {
        Self {
            lifetime_s: 7 * 24 * 3600,
            sweep_ms: 10_000,
        }
    }
}

impl Ledger {
    /// The time between two folds.
    pub fn fold_interval(&self) -> Duration {
        Duration::from_millis(self.fold_ms)
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self { fold_ms: 5_000 }
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            slow_ms: 1_000,
            hang_ms: 30_000,
            max_connections: 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use chassis::Settings as _;

    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let mut violations = Violations::new();
        Settings::default().check(&mut violations);
        assert_eq!(violations.to_string(), "");
    }

    #[test]
    fn all_violations_are_reported_together() {
        let mut settings = Settings::default();
        settings.processor.timeout_ms = 1;
        settings.processor.ask_again_max_ms = 1;
        settings.authorization.lifetime_s = 0;
        settings.sandbox.hang_ms = 0;
        settings.events.relay.batch = 0;
        let mut violations = Violations::new();
        settings.check(&mut violations);
        let fields: Vec<_> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(
            fields,
            [
                "events.relay.batch",
                "processor.timeout_ms",
                "processor.ask_again_max_ms",
                "authorization.lifetime_s",
                "sandbox.hang_ms",
            ]
        );
    }

    #[test]
    fn the_delay_between_queries_doubles_up_to_its_bound() {
        let settings = Processor {
            ask_again_ms: 500,
            ask_again_max_ms: 3_000,
            ..Processor::default()
        };
        let waits: Vec<_> = (1..=5)
            .map(|attempts| settings.query_delay(attempts).as_millis())
            .collect();
        assert_eq!(waits, [500, 1_000, 2_000, 3_000, 3_000]);
    }
}

//! Every setting of the order service with its unit, default and bounds.

use std::{path::PathBuf, time::Duration};

use chassis::{Sections, Upstream, Violations, retention::Rule};
use serde::{Deserialize, Serialize};

use crate::settlement::DenialPolicy;

/// The settings of the order service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
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
    /// The payment service's address.
    pub payment: Upstream,
    /// The claims service's address.
    pub claims: Upstream,
    pub orders: Orders,
    pub saga: Saga,
    /// How amounts that payers refuse are handled.
    pub denials: DenialPolicy,
}

/// Settings of orders.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Orders {
    /// Seconds that an order waits for a payment method. Default 60, at most a day.
    pub payment_window_s: u32,
    /// Milliseconds between two polls of the orders that have subscribers, which find changes by other replicas;
    /// one query for all. Default 250.
    pub watch_poll_ms: u64,
    /// The longest watch in seconds. Default 600.
    pub watch_max_s: u64,
}

/// Settings of sagas.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Saga {
    /// Milliseconds until another process may take over a saga whose process does not respond. Default 10000.
    pub lease_ms: u64,
    /// Milliseconds between two polls for due sagas. Default 200.
    pub poll_ms: u64,
    /// Sagas that one process resumes at the same time for each participant, payment and claims. Default 16; each
    /// sometimes uses a database connection.
    pub concurrency: u32,
    /// Tries of a step before it is abandoned and undone; past the pivot, before the saga counts as stuck. Default
    /// 20.
    pub step_tries: u32,
    /// Milliseconds before the second try; doubled each time. Default 100.
    pub backoff_ms: u64,
    /// The longest wait between two tries in milliseconds. Default 5000.
    pub max_backoff_ms: u64,
    /// Milliseconds that one try may take in the background. Default 10000.
    pub step_timeout_ms: u64,
    /// Seconds after which a saga that has not ended counts as stuck. Default 900.
    pub patience_s: u32,
    /// Seconds between two tries of a stuck saga. Default 60.
    pub stuck_retry_s: u32,
    /// Days that a saga is kept after its end, at least 30. Default 400. Its order is kept forever.
    pub keep_days: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            address_file: None,
            grpc: chassis::server::Settings::on_port(7101),
            probe: chassis::health::Settings::on_port(7201),
            database: chassis::postgres::Settings::for_service("order"),
            auth: chassis::auth::Settings::default(),
            idempotency: chassis::idempotency::Settings::default(),
            audit: chassis::audit::Settings::default(),
            telemetry: chassis::telemetry::Settings::default(),
            drain: chassis::drain::Settings::default(),
            events: events::Settings::default(),
            payment: Upstream::local(7102),
            claims: Upstream::local(7103),
            orders: Orders::default(),
            saga: Saga::default(),
            denials: DenialPolicy::default(),
        }
    }
}

impl Default for Orders {
    fn default() -> Orders {
        Orders {
            payment_window_s: 60,
            watch_poll_ms: 250,
            watch_max_s: 600,
        }
    }
}

impl Default for Saga {
    fn default() -> Saga {
        Saga {
            lease_ms: 10_000,
            poll_ms: 200,
            concurrency: 16,
            step_tries: 20,
            backoff_ms: 100,
            max_backoff_ms: 5_000,
            step_timeout_ms: 10_000,
            patience_s: 900,
            stuck_retry_s: 60,
            keep_days: 400,
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
        violations.within("payment", |violations| self.payment.check(violations));
        violations.within("claims", |violations| self.claims.check(violations));
        violations.within("orders", |violations| self.orders.check(violations));
        violations.within("saga", |violations| self.saga.check(violations));
        let signs = self.auth.signing_key_file.is_some();
        violations.require(
            signs,
            "auth.signing_key_file",
            "must be set: sagas are resumed with tokens of this service",
        );
    }
}

impl Orders {
    /// How long an order waits for a payment method.
    pub fn payment_window(&self) -> time::Duration {
        time::Duration::seconds(self.payment_window_s.into())
    }

    /// The time between two polls of the orders that have subscribers.
    pub fn watch_poll(&self) -> Duration {
        Duration::from_millis(self.watch_poll_ms)
    }

    /// The longest watch.
    pub fn watch_max(&self) -> Duration {
        Duration::from_secs(self.watch_max_s)
    }

    fn check(&self, violations: &mut Violations) {
        require_range(
            violations,
            "payment_window_s",
            self.payment_window_s.into(),
            1,
            86_400,
        );
        require_range(violations, "watch_poll_ms", self.watch_poll_ms, 10, 60_000);
        require_range(violations, "watch_max_s", self.watch_max_s, 1, 3_600);
    }
}

impl Saga {
    /// How long a lease lasts without renewal.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// The time between two polls for due sagas.
    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    /// The timeout of a try in the background.
    pub fn step_timeout(&self) -> Duration {
        Duration::from_millis(self.step_timeout_ms)
    }

    /// How long a saga may take before it counts as stuck.
    pub fn stuck_after(&self) -> time::Duration {
        time::Duration::seconds(self.patience_s.into())
    }

    /// The time between two tries of a stuck saga.
    pub fn stuck_retry(&self) -> time::Duration {
        time::Duration::seconds(self.stuck_retry_s.into())
    }

    /// The retention of sagas that have ended.
    pub fn retention(&self) -> Rule {
        Rule {
            table: "orders.saga",
            function: "orders.prune_sagas",
            keep: Duration::from_secs(u64::from(self.keep_days) * 86_400),
        }
    }

    /// The delay after the `tries`th failed try: doubled each time, bounded, with a fifth of jitter either way.
    pub fn backoff(&self, tries: u32) -> time::Duration {
        let doubled = self
            .backoff_ms
            .saturating_mul(1 << tries.saturating_sub(1).min(20));
        let bounded = Duration::from_millis(doubled.min(self.max_backoff_ms));
        let jittered = bounded.mul_f64(0.8 + 0.4 * rand::random::<f64>());
        time::Duration::try_from(jittered).unwrap_or(time::Duration::SECOND)
    }

    fn check(&self, violations: &mut Violations) {
        require_range(violations, "lease_ms", self.lease_ms, 300, 600_000);
        require_range(violations, "poll_ms", self.poll_ms, 10, 60_000);
        require_range(violations, "concurrency", self.concurrency.into(), 1, 1_000);
        require_range(violations, "step_tries", self.step_tries.into(), 1, 1_000);
        require_range(violations, "backoff_ms", self.backoff_ms, 1, 60_000);
        require_range(
            violations,
            "max_backoff_ms",
            self.max_backoff_ms,
            self.backoff_ms,
            3_600_000,
        );
        require_range(violations, "step_timeout_ms", self.step_timeout_ms, 100, 600_000);
        require_range(violations, "patience_s", self.patience_s.into(), 1, 604_800);
        require_range(violations, "stuck_retry_s", self.stuck_retry_s.into(), 1, 86_400);
        require_range(violations, "keep_days", self.keep_days.into(), 30, 36_500);
    }
}

fn require_range(violations: &mut Violations, field: &str, value: u64, low: u64, high: u64) {
    violations.require(
        (low..=high).contains(&value),
        field,
        format!("must be {low} to {high}"),
    );
}

use std::{path::PathBuf, time::Duration};

use chassis::SecretUrl;
use serde::{Deserialize, Serialize};

/// Settings of the events of a service. Nested in the service's own settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The NATS servers, `nats://host:port` or `tls://host:port`. The first reachable one is used.
    pub servers: Vec<SecretUrl>,
    /// A NATS credentials file. Empty: no authentication.
    pub credentials_file: Option<PathBuf>,
    /// Certificate authorities for TLS, PEM. Empty: the system's.
    pub ca_file: Option<PathBuf>,
    /// The server's monitoring address, `http://host:port`, from which the check at the start reads
    /// `sync_interval`.
    pub monitor_url: Option<SecretUrl>,
    /// Start although the broker may acknowledge events before they are on disk, or this cannot be checked.
    pub allow_relaxed_sync: bool,
    /// Copies of every stream: 1, 3 or 5. Three in production.
    pub replicas: usize,
    /// Events a second that the stream EVENTS is sized for: of all services together, on average over
    /// `events_max_age_days`. An insured order makes some 10 events. 1 to 1,000,000.
    pub events_per_second: u32,
    /// Most bytes in the stream EVENTS; beyond them the broker refuses and the outbox backs up. 0: as many as
    /// `events_per_second` and `events_max_age_days` need. Otherwise 1 MiB or more.
    pub events_max_bytes: i64,
    /// Days that an event stays in the stream EVENTS. 1 to 365.
    pub events_max_age_days: u32,
    /// Days that a dead letter stays in the stream DEAD_LETTERS. 1 to 365.
    pub dead_letters_max_age_days: u32,
    /// Most bytes in the stream DEAD_LETTERS; beyond them its oldest copies are deleted. 1 MiB or more.
    pub dead_letters_max_bytes: i64,
    /// Days that the event log is kept. 1 to 3,650, and no less than `events_max_age_days`.
    pub log_kept_days: u32,
    /// Days that a resolved or discarded dead letter is kept; open ones stay. No less than `events_max_age_days`,
    /// at most 3,650.
    pub dead_letters_kept_days: u32,
    /// Days that a consumer remembers which events took effect. No less than `events_max_age_days`, at most 365.
    pub inbox_kept_days: u32,
    /// Days that operators' actions and their request ids are kept. 30 to 3,650.
    pub operator_actions_kept_days: u32,
    /// Whether edits of dead letters take effect only after a second operator approves them.
    pub edits_need_approval: bool,
    pub relay: RelaySettings,
    pub consumer: ConsumerSettings,
}

/// Settings of the relay, which publishes the outbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelaySettings {
    /// Milliseconds between polls of the outbox when the relay is not woken. 10 to 10,000.
    pub poll_ms: u64,
    /// Milliseconds that events wait for others when 50 or more were published just before, so that they share a
    /// batch; less after fewer events, but 30 ms at least. An event that follows a longer pause is published at
    /// once. 0 to 1,000.
    pub gather_ms: u64,
    /// Events published in one atomic batch. 1 to 1,000.
    pub batch: u32,
    /// Milliseconds after which the lanes of a relay that has stopped renewing them are free. 500 to 60,000.
    pub lease_ms: u64,
    /// Milliseconds to wait for the broker's acknowledgement. 100 to 60,000.
    pub ack_timeout_ms: u64,
    /// Milliseconds before a held message, which the broker has refused, is retried. 100 to 3,600,000.
    pub held_retry_ms: u64,
}

/// Settings of the consumers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsumerSettings {
    /// Concurrent transactions of one consumer. 1 to 256; each uses a database connection.
    pub concurrency: usize,
    /// Most events that share a transaction. 1 to 256; 1: each has its own.
    pub batch: usize,
    /// Most unacknowledged messages of a consumer. 1 to 10,000.
    pub max_in_flight: usize,
    /// Milliseconds after which the broker redelivers an unacknowledged message. 1,000 to 600,000.
    pub ack_wait_ms: u64,
    /// Deliveries of one message, whatever their cause. More than `attempts`, at most 100.
    pub max_deliver: i64,
    /// Attempts of the handler before an event becomes a dead letter. 1 to 50.
    pub attempts: u32,
    /// Milliseconds before the second attempt; doubled thereafter, with jitter. 10 to 60,000.
    pub backoff_ms: u64,
    /// The longest wait between two attempts in milliseconds. At least `backoff_ms`, at most 3,600,000.
    pub max_backoff_ms: u64,
    /// The timeout of one attempt in milliseconds. 100 to 600,000.
    pub handler_timeout_ms: u64,
    /// Times that an event exceeds the database's timeout, while other events take effect in between, before it
    /// becomes a dead letter. 1 to 1,000.
    pub timeout_tries: u32,
    /// Recorded starts without an outcome after which an event counts as the cause of the crashes. 1 to 10.
    pub crash_tries: u32,
    /// Milliseconds after which the lease of a process that has stopped renewing it expires, and another process
    /// consumes. 500 to 60,000.
    pub lease_ms: u64,
}

/// A setting with an invalid value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The setting, below the events section: `relay.batch`.
    pub setting: &'static str,
    /// What it must be.
    pub problem: String,
}

/// Bytes of the stream for one event: some 900 with its headers, and a quarter more in reserve.
const EVENT_BYTES: i64 = 1_152;

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".into()],
            credentials_file: None,
            ca_file: None,
            monitor_url: Some("http://127.0.0.1:8222".into()),
            allow_relaxed_sync: false,
            replicas: 1,
            events_per_second: 50,
            events_max_bytes: 0,
            events_max_age_days: 7,
            dead_letters_max_age_days: 60,
            dead_letters_max_bytes: 512 << 20,
            log_kept_days: 90,
            dead_letters_kept_days: 90,
            inbox_kept_days: 30,
            operator_actions_kept_days: 730,
            edits_need_approval: false,
            relay: RelaySettings::default(),
            consumer: ConsumerSettings::default(),
        }
    }
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            poll_ms: 100,
            gather_ms: 100,
            batch: 500,
            lease_ms: 5_000,
            ack_timeout_ms: 5_000,
            held_retry_ms: 30_000,
        }
    }
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            concurrency: 8,
            batch: 64,
            max_in_flight: 256,
            ack_wait_ms: 30_000,
            max_deliver: 8,
            attempts: 5,
            backoff_ms: 500,
            max_backoff_ms: 30_000,
            handler_timeout_ms: 30_000,
            timeout_tries: 20,
            crash_tries: 2,
            lease_ms: 5_000,
        }
    }
}

impl Settings {
    /// How long an event stays in the stream.
    pub(crate) fn stream_age(&self) -> Duration {
        Duration::from_secs(86_400) * self.events_max_age_days
    }

    /// Most bytes in the stream EVENTS.
    pub(crate) fn events_bytes(&self) -> i64 {
        if self.events_max_bytes > 0 {
            return self.events_max_bytes;
        }
        let events = i64::from(self.events_per_second) * 86_400 * i64::from(self.events_max_age_days);
        events.saturating_mul(EVENT_BYTES)
    }

    /// All settings that are out of their bounds.
    pub fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut check = |holds: bool, setting, problem: &str| {
            if !holds {
                violations.push(Violation {
                    setting,
                    problem: problem.to_owned(),
                });
            }
        };
        let (relay, consumer) = (&self.relay, &self.consumer);
        check(
            !self.servers.is_empty(),
            "servers",
            "must name at least one server",
        );
        check(
            self.servers
                .iter()
                .all(|server| server.expose().parse::<async_nats::ServerAddr>().is_ok()),
            "servers",
            "must be addresses like nats://host:port",
        );
        check(
            self.monitor_url
                .as_ref()
                .is_none_or(|url| url.expose().starts_with("http://")),
            "monitor_url",
            "must start with http://",
        );
        check(
            [1, 3, 5].contains(&self.replicas),
            "replicas",
            "must be 1, 3 or 5",
        );
        check(
            (1..=1_000_000).contains(&self.events_per_second),
            "events_per_second",
            "must be 1 to 1000000",
        );
        check(
            self.events_max_bytes == 0 || self.events_max_bytes >= 1 << 20,
            "events_max_bytes",
            "must be 0, for what events_per_second needs, or 1048576 or more",
        );
        check(
            self.dead_letters_max_bytes >= 1 << 20,
            "dead_letters_max_bytes",
            "must be 1048576 or more",
        );
        check(
            (30..=3_650).contains(&self.operator_actions_kept_days),
            "operator_actions_kept_days",
            "must be 30 to 3650",
        );
        let stream_days = self.events_max_age_days;
        check(
            (1..=365).contains(&stream_days),
            "events_max_age_days",
            "must be 1 to 365",
        );
        check(
            (1..=365).contains(&self.dead_letters_max_age_days),
            "dead_letters_max_age_days",
            "must be 1 to 365",
        );
        let log_days = stream_days..=3_650;
        check(
            log_days.contains(&self.log_kept_days),
            "log_kept_days",
            "must be events_max_age_days to 3650",
        );
        // Only the row of a discarded dead letter keeps its event from taking effect when the stream delivers it
        // again.
        check(
            log_days.contains(&self.dead_letters_kept_days),
            "dead_letters_kept_days",
            "must be events_max_age_days to 3650",
        );
        let inbox_days = stream_days..=365;
        check(
            inbox_days.contains(&self.inbox_kept_days),
            "inbox_kept_days",
            "must be events_max_age_days to 365",
        );
        check(
            (10..=10_000).contains(&relay.poll_ms),
            "relay.poll_ms",
            "must be 10 to 10000",
        );
        check(relay.gather_ms <= 1_000, "relay.gather_ms", "must be 0 to 1000");
        check(
            (1..=1_000).contains(&relay.batch),
            "relay.batch",
            "must be 1 to 1000",
        );
        check(
            (500..=60_000).contains(&relay.lease_ms),
            "relay.lease_ms",
            "must be 500 to 60000",
        );
        check(
            (100..=60_000).contains(&relay.ack_timeout_ms),
            "relay.ack_timeout_ms",
            "must be 100 to 60000",
        );
        check(
            (100..=3_600_000).contains(&relay.held_retry_ms),
            "relay.held_retry_ms",
            "must be 100 to 3600000",
        );
        violations.extend(consumer.check());
        violations
    }
}

impl ConsumerSettings {
    fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut check = |holds: bool, setting, problem: &str| {
            if !holds {
                violations.push(Violation {
                    setting,
                    problem: problem.to_owned(),
                });
            }
        };
        check(
            (1..=256).contains(&self.concurrency),
            "consumer.concurrency",
            "must be 1 to 256",
        );
        check(
            (1..=256).contains(&self.batch),
            "consumer.batch",
            "must be 1 to 256",
        );
        check(
            (1..=10_000).contains(&self.max_in_flight),
            "consumer.max_in_flight",
            "must be 1 to 10000",
        );
        check(
            (1_000..=600_000).contains(&self.ack_wait_ms),
            "consumer.ack_wait_ms",
            "must be 1000 to 600000",
        );
        let deliveries = i64::from(self.attempts) + 1..=100;
        check(
            deliveries.contains(&self.max_deliver),
            "consumer.max_deliver",
            "must be more than attempts, at most 100",
        );
        check(
            (1..=50).contains(&self.attempts),
            "consumer.attempts",
            "must be 1 to 50",
        );
        check(
            (10..=60_000).contains(&self.backoff_ms),
            "consumer.backoff_ms",
            "must be 10 to 60000",
        );
        let longest = self.backoff_ms..=3_600_000;
        check(
            longest.contains(&self.max_backoff_ms),
            "consumer.max_backoff_ms",
            "must be backoff_ms to 3600000",
        );
        let handler = 100..=600_000;
        check(
            handler.contains(&self.handler_timeout_ms),
            "consumer.handler_timeout_ms",
            "must be 100 to 600000",
        );
        check(
            (1..=1_000).contains(&self.timeout_tries),
            "consumer.timeout_tries",
            "must be 1 to 1000",
        );
        check(
            (1..=10).contains(&self.crash_tries),
            "consumer.crash_tries",
            "must be 1 to 10",
        );
        check(
            (500..=60_000).contains(&self.lease_ms),
            "consumer.lease_ms",
            "must be 500 to 60000",
        );
        violations
    }

    /// The wait after this number of failures: doubled each time, bounded, with a jitter of a fifth either way.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let doubled = self
            .backoff_ms
            .saturating_mul(1 << failures.saturating_sub(1).min(20));
        let bounded = doubled.min(self.max_backoff_ms);
        Duration::from_millis(bounded).mul_f64(0.8 + 0.4 * rand::random::<f64>())
    }
}

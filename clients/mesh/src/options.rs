//! What a channel is made from: its name on both ends, its target, and the tuning operators may change.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Fault, Tls, discovery::KubernetesApi};

/// Everything a [`Channel`](crate::Channel) is made from.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// `static:http://127.0.0.1:7102,http://…`, `dns:http://payment:7102` or `k8s:http://payment.weft:grpc`. In
    /// the first of them an endpoint's zone is written behind it: `http://10.0.0.7:7102;zone=b`.
    pub target: String,
    /// The service at the other end, for metrics and messages: `payment`.
    pub service: String,
    /// The service at this end: `order`.
    pub caller: String,
    /// Limits and times; the defaults suit calls inside one data centre.
    pub tuning: Tuning,
    /// Whether this environment allows [`Tuning::inject`]; where it does not, configuring any is an error.
    pub allow_faults: bool,
}

impl ChannelOptions {
    /// Options with default tuning.
    pub fn new(
        target: impl Into<String>,
        service: impl Into<String>,
        caller: impl Into<String>,
    ) -> ChannelOptions {
        let (target, service, caller) = (target.into(), service.into(), caller.into());
        ChannelOptions {
            target,
            service,
            caller,
            tuning: Tuning::default(),
            allow_faults: false,
        }
    }

    /// Fails with the first setting that is out of its bounds.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some((setting, reason)) = self.tuning.errors().into_iter().next() {
            return Err(Error::Setting {
                setting: setting.to_owned(),
                reason,
            });
        }
        if !self.allow_faults && !self.tuning.inject.is_empty() {
            let reason = "this environment allows no injected faults".to_owned();
            return Err(Error::Setting {
                setting: "inject".to_owned(),
                reason,
            });
        }
        Ok(())
    }
}

/// A channel's limits and times, as configuration writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// How long one connection attempt may take, name resolution and handshakes included. Milliseconds, default 2000.
    pub connect_timeout_ms: u64,
    /// What is kept back from the caller's remaining time for the answer's way back, at most a tenth of it.
    /// Milliseconds, default 5.
    pub deadline_margin_ms: u64,
    /// Whether a call waits for a connection while every endpoint is known to be down, instead of failing
    /// with UNAVAILABLE. Default no.
    pub wait_for_ready: bool,
    /// Requests larger than this are not kept and so not retried. Bytes, default 65536.
    pub replay_limit_bytes: usize,
    /// How often a `dns:` name is resolved again. Milliseconds, 100 to 30000, default 30000.
    pub dns_refresh_ms: u64,
    /// Which servers are pinged as the next four settings say. Default: those that announce that they bear it.
    pub pings: Pings,
    /// A connection that no call waits on is pinged after so much silence. Milliseconds, default 20000.
    pub keepalive_interval_ms: u64,
    /// That ping unanswered for this long ends the connection. Milliseconds, default 10000.
    pub keepalive_timeout_ms: u64,
    /// A connection on which calls wait for an answer is pinged after so much silence, again and again; 0 leaves it to
    /// the keepalive. Milliseconds, 0 or 50 to 60000, default 500.
    pub silence_ms: u64,
    /// That ping unanswered for this long ends the connection, and the calls on it that may be repeated go elsewhere.
    /// Milliseconds, default 1000.
    pub silence_timeout_ms: u64,
    /// A server that announces nothing is pinged after so much silence while calls wait for an answer, and never else;
    /// 0: never. Servers of other makers close the connection after three pings within five minutes each, unless they
    /// are told otherwise (gRFC A8). Milliseconds, 0 or 10000 to 3600000, default 310000.
    pub keepalive_unannounced_ms: u64,
    /// Calls in flight on one endpoint. Default 512.
    pub max_in_flight: usize,
    /// Calls that wait for an endpoint, in the whole channel; more fail with RESOURCE_EXHAUSTED. Default 1024.
    pub max_waiting: usize,
    /// The zone this process runs in: endpoints of the same zone are preferred while they have room. Default none.
    pub zone: Option<String>,
    /// Overrides as gRPC's service-config JSON (`methodConfig`, `retryThrottling`, …). Default none.
    pub service_config: Option<String>,
    /// The Kubernetes API, for `k8s:` targets. Default: as every pod finds it.
    pub kubernetes: KubernetesApi,
    /// Failures on purpose, for rehearsals; the first that concerns a method applies. Default none.
    pub inject: Vec<Fault>,
    /// Mutual TLS; needed for `https://` targets and only for these. Default none.
    pub tls: Option<Tls>,
    /// Whether the caller's bearer token goes to this server: `secured` (over TLS, and to this machine), `plaintext`
    /// (also in the clear) or `never`. Default `secured`.
    pub bearer: BearerTokens,
}

/// Where the token of the context goes. A token that the application puts into the headers itself always goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BearerTokens {
    /// Over TLS and to loopback addresses; a call that would carry it elsewhere fails with UNAUTHENTICATED and is not
    /// sent.
    #[default]
    Secured,
    /// Also over plaintext connections, where the network between is trusted.
    Plaintext,
    /// Nowhere: the server is somebody else's.
    Never,
}

/// Which servers are pinged often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pings {
    /// Those that announce it with [`MIN_PING_INTERVAL`] in a response's headers, as Weft's do.
    #[default]
    Announced,
    /// All: for servers of other makers that were configured to allow it, such as grpc-go's with
    /// `KeepaliveEnforcementPolicy`.
    Always,
}

/// A response's header by which a server announces how often it may be pinged, whether calls are open or not.
/// Milliseconds.
pub const MIN_PING_INTERVAL: &str = "mesh-min-ping-interval-ms";

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            connect_timeout_ms: 2_000,
            deadline_margin_ms: 5,
            wait_for_ready: false,
            replay_limit_bytes: 64 * 1024,
            dns_refresh_ms: 30_000,
            pings: Pings::Announced,
            keepalive_interval_ms: 20_000,
            keepalive_timeout_ms: 10_000,
            silence_ms: 500,
            silence_timeout_ms: 1_000,
            keepalive_unannounced_ms: 310_000,
            max_in_flight: 512,
            max_waiting: 1024,
            zone: None,
            kubernetes: KubernetesApi::default(),
            service_config: None,
            inject: Vec::new(),
            tls: None,
            bearer: BearerTokens::default(),
        }
    }
}

impl Tuning {
    /// Every setting that is out of its bounds, as (setting, what is wrong).
    pub fn errors(&self) -> Vec<(&'static str, String)> {
        let mut errors = Vec::new();
        let mut within = |setting, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                errors.push((setting, format!("must be {low} to {high}, is {value}")));
            }
        };
        within("connect_timeout_ms", self.connect_timeout_ms, 1, 60_000);
        within("deadline_margin_ms", self.deadline_margin_ms, 0, 1_000);
        within(
            "replay_limit_bytes",
            self.replay_limit_bytes as u64,
            0,
            4 * 1024 * 1024,
        );
        within("dns_refresh_ms", self.dns_refresh_ms, 100, 30_000);
        within(
            "keepalive_interval_ms",
            self.keepalive_interval_ms,
            100,
            3_600_000,
        );
        within("keepalive_timeout_ms", self.keepalive_timeout_ms, 100, 600_000);
        if self.silence_ms != 0 {
            within("silence_ms", self.silence_ms, 50, 60_000);
        }
        if self.keepalive_unannounced_ms != 0 {
            let set = self.keepalive_unannounced_ms;
            within("keepalive_unannounced_ms", set, 10_000, 3_600_000);
        }
        within("silence_timeout_ms", self.silence_timeout_ms, 50, 600_000);
        within("max_in_flight", self.max_in_flight as u64, 1, 100_000);
        within("max_waiting", self.max_waiting as u64, 0, 100_000);
        if let Some(problem) = self.inject.iter().find_map(Fault::problem) {
            errors.push(("inject", problem));
        }
        errors
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn deadline_margin(&self) -> Duration {
        Duration::from_millis(self.deadline_margin_ms)
    }

    pub(crate) fn dns_refresh(&self) -> Duration {
        Duration::from_millis(self.dns_refresh_ms)
    }

    pub(crate) fn keepalive_interval(&self) -> Duration {
        Duration::from_millis(self.keepalive_interval_ms)
    }

    pub(crate) fn keepalive_timeout(&self) -> Duration {
        Duration::from_millis(self.keepalive_timeout_ms)
    }

    /// `None`: connections are pinged alike, whether calls wait or not.
    pub(crate) fn silence(&self) -> Option<Duration> {
        (self.silence_ms > 0).then(|| Duration::from_millis(self.silence_ms))
    }

    /// `None`: a server that announces nothing is not pinged.
    pub(crate) fn keepalive_unannounced(&self) -> Option<Duration> {
        (self.keepalive_unannounced_ms > 0).then(|| Duration::from_millis(self.keepalive_unannounced_ms))
    }

    /// The shortest silence after which a server that bears it is pinged.
    pub(crate) fn shortest_silence(&self) -> Duration {
        let keepalive = self.keepalive_interval();
        self.silence().map_or(keepalive, |silence| silence.min(keepalive))
    }

    pub(crate) fn silence_timeout(&self) -> Duration {
        Duration::from_millis(self.silence_timeout_ms)
    }
}

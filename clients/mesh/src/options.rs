//! The options of a channel: caller and service, target, and the tuning that operators may change.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Error, Fault, Tls, call_policy::CallPolicies, discovery::KubernetesApi, proxy::Proxy};

/// The options of a [`Channel`](crate::Channel).
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// `static:http://127.0.0.1:7102,http://…`, `dns:http://payment:7102`, `k8s:http://payment.weft:grpc` or
    /// `unix:/run/payment.sock`. An endpoint of a `static:` target may have a zone: `http://10.0.0.7:7102;zone=b`. Labels, by which the
    /// routes of a service config select endpoints, may follow an address or name: `;version=v2`. `dns:` and
    /// `k8s:` targets may have up to 16 names, separated by commas, such as a Service and its canary.
    pub target: String,
    /// The called service, for metrics and error messages: `payment`.
    pub service: String,
    /// The calling service: `order`.
    pub caller: String,
    /// Limits and timeouts; the defaults are for calls inside one data centre.
    pub tuning: Tuning,
    /// A file with gRPC's service config in JSON, in place of [`Tuning::service_config`]. It is checked every second:
    /// a changed one applies to the calls that begin from then on, an invalid one is logged and changes nothing.
    /// Default none.
    pub service_config_file: Option<PathBuf>,
    pub(crate) call_policies: CallPolicies,
    /// Whether this environment allows [`Tuning::inject`]; if not, configuring a fault is an error.
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
            service_config_file: None,
            call_policies: CallPolicies::default(),
            allow_faults: false,
        }
    }

    /// Fails with the first invalid setting.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some((setting, reason)) = self.tuning.errors().into_iter().next() {
            return Err(Error::Setting {
                setting: setting.to_owned(),
                reason,
            });
        }
        if let Some(methods) = self.call_policies.invalid() {
            return Err(Error::Setting {
                setting: "policy".to_owned(),
                reason: format!(
                    "`{methods}` is neither `package.Service/Method` nor `package.Service` nor `*`"
                ),
            });
        }
        if self.service_config_file.is_some() && self.tuning.service_config.is_some() {
            return Err(Error::Setting {
                setting: "service_config_file".to_owned(),
                reason: "contradicts tuning.service_config".to_owned(),
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

/// A channel's limits and timeouts, in the format of configuration files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// Timeout of one connection attempt, including name resolution and handshakes. Milliseconds, default 2000.
    pub connect_timeout_ms: u64,
    /// The part of the caller's remaining time that is reserved for returning the response, at most a tenth of it.
    /// Milliseconds, default 5.
    pub deadline_margin_ms: u64,
    /// Whether a call waits for a connection while every endpoint is known to be down, instead of failing
    /// with UNAVAILABLE. Default no.
    pub wait_for_ready: bool,
    /// Requests larger than this are not buffered, and therefore not retried. Bytes, default 65536.
    pub replay_limit_bytes: usize,
    /// Interval at which a `dns:` name is resolved again. Milliseconds, 100 to 30000, default 30000.
    pub dns_refresh_ms: u64,
    /// Which servers are pinged according to the next four settings. Default: those that announce that they allow
    /// it.
    pub pings: Pings,
    /// The silence after which a connection without waiting calls is pinged. Milliseconds, default 20000.
    pub keepalive_interval_ms: u64,
    /// Timeout of that ping, after which the connection is closed. Milliseconds, default 10000.
    pub keepalive_timeout_ms: u64,
    /// The silence after which a connection with waiting calls is pinged, repeatedly; 0: as without waiting calls.
    /// Milliseconds, 0 or 50 to 60000, default 500.
    pub silence_ms: u64,
    /// Timeout of that ping, after which the connection is closed and its repeatable calls are sent to other
    /// endpoints. Milliseconds, default 1000.
    pub silence_timeout_ms: u64,
    /// The silence after which a server that announces nothing is pinged, only while calls are waiting; 0: never.
    /// Other gRPC servers by default close the connection after three pings less than five minutes apart (gRFC
    /// A8). Milliseconds, 0 or 10000 to 3600000, default 310000.
    pub keepalive_unannounced_ms: u64,
    /// Maximum number of calls in flight on one endpoint. Default 512.
    pub max_in_flight: usize,
    /// Maximum number of calls of the channel that wait for an endpoint; more fail with RESOURCE_EXHAUSTED.
    /// Default 1024.
    pub max_waiting: usize,
    /// The zone of this process: endpoints of the same zone are preferred while they have capacity. Default none.
    pub zone: Option<String>,
    /// Overrides in gRPC's service-config JSON (`methodConfig`, `retryThrottling`, …). Default none.
    pub service_config: Option<String>,
    /// The Kubernetes API, for `k8s:` targets. Default: as in every pod.
    pub kubernetes: KubernetesApi,
    /// Injected faults; the first one that matches a method applies. Default none.
    pub inject: Vec<Fault>,
    /// How servers of `https://` targets are verified, and this process's certificate; permitted only for these
    /// targets. Default: as [`Tls`] says, without a certificate of this process.
    pub tls: Option<Tls>,
    /// An HTTP proxy that opens the connections (CONNECT), `http://host:port`; not for `unix:` targets. It resolves
    /// the names of `static:` targets. Variables of the environment are not read. Default none.
    pub proxy: Option<String>,
    /// Whether the caller's bearer token is sent to this server: `secured` (over TLS, and to this machine),
    /// `plaintext` (also over plaintext connections) or `never`. Default `secured`.
    pub bearer: BearerTokens,
}

/// Where the token of the context is sent. A token that the application sets in the headers itself is always sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BearerTokens {
    /// Over TLS and to loopback addresses; a call with a token to another address fails with UNAUTHENTICATED and
    /// is not sent.
    #[default]
    Secured,
    /// Also over plaintext connections, for trusted networks.
    Plaintext,
    /// Nowhere, for servers of third parties.
    Never,
}

/// Which servers are pinged often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pings {
    /// Those that announce it with [`MIN_PING_INTERVAL`] in response headers, as Weft's servers do.
    #[default]
    Announced,
    /// All: for other gRPC servers that are configured to allow it, such as grpc-go with
    /// `KeepaliveEnforcementPolicy`.
    Always,
}

/// The response header in which a server announces the shortest ping interval that it allows, with or without open
/// calls. Milliseconds.
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
            proxy: None,
            bearer: BearerTokens::default(),
        }
    }
}

impl Tuning {
    /// All invalid settings, as (setting, reason).
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
        errors.extend(self.tls.iter().flat_map(Tls::errors));
        if let Some(Err(problem)) = self.proxy.as_deref().map(Proxy::parse) {
            errors.push(("proxy", problem));
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

    /// `None`: waiting calls do not change the ping interval.
    pub(crate) fn silence(&self) -> Option<Duration> {
        (self.silence_ms > 0).then(|| Duration::from_millis(self.silence_ms))
    }

    /// `None`: a server that announces nothing is not pinged.
    pub(crate) fn keepalive_unannounced(&self) -> Option<Duration> {
        (self.keepalive_unannounced_ms > 0).then(|| Duration::from_millis(self.keepalive_unannounced_ms))
    }

    /// The shortest silence after which a server that allows frequent pings is pinged.
    pub(crate) fn shortest_silence(&self) -> Duration {
        let keepalive = self.keepalive_interval();
        self.silence().map_or(keepalive, |silence| silence.min(keepalive))
    }

    pub(crate) fn silence_timeout(&self) -> Duration {
        Duration::from_millis(self.silence_timeout_ms)
    }
}

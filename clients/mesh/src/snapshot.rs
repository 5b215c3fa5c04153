//! The state of a channel at one time, for operators.

use std::collections::BTreeMap;

use serde::Serialize;

pub use crate::outlier_detection::{FailurePercentageEjection, SuccessRateEjection};

/// The state of one channel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The called service.
    pub service: String,
    /// The configured target: `static:…`, `dns:…`, `k8s:…` or `unix:…`.
    pub target: String,
    /// All known addresses, sorted by authority and address.
    pub endpoints: Vec<Endpoint>,
    /// Why no call can be sent; `None` if calls can be sent, or while the first connections are being opened.
    pub failing: Option<String>,
    /// Calls and attempts of the last ten seconds.
    pub traffic: Traffic,
    /// Retries and hedges that the budget permits now, of the criticality that has the fewest.
    pub retries_left: u32,
    /// The probability, 0 to 0.9, with which the client throttles the next call, of the criticality where it is
    /// highest.
    pub refusal: f64,
    /// The outlier detection that the service config sets; `None`: the breaker's defaults apply.
    pub outlier_detection: Option<OutlierDetection>,
    /// The effective policies of all methods of the contract, sorted by name.
    pub methods: Vec<Method>,
}

/// Calls and attempts of the last ten seconds. Only failures of the callee count; a caller's errors count as
/// success.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// Ended calls per second.
    pub calls_per_s: f64,
    /// The share of successful calls, after all retries, 0 to 1; `None` without calls. The effective success rate.
    pub success: Option<f64>,
    /// Ended attempts per second.
    pub attempts_per_s: f64,
    /// The share of successful attempts, 0 to 1; `None` without attempts. The actual success rate.
    pub attempt_success: Option<f64>,
    /// Median duration of the calls, exact within a tenth. Milliseconds.
    pub p50_ms: Option<f64>,
    /// 95th percentile. Milliseconds.
    pub p95_ms: Option<f64>,
    /// 99th percentile. Milliseconds.
    pub p99_ms: Option<f64>,
}

/// The state of one address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    /// The authority of requests.
    pub authority: String,
    /// The host and port of the connection, `host:port`, or the path of its Unix socket.
    pub address: String,
    /// The endpoint's zone, if the target names it.
    pub zone: Option<String>,
    /// The labels that the target gives it, by which routes select endpoints.
    pub labels: BTreeMap<String, String>,
    /// Whether there is a healthy connection.
    pub connected: bool,
    /// Why there is none.
    pub failure: Option<String>,
    /// The part of an even share that it gets by its age, 0.1 to 1.
    pub weight: f64,
    /// Estimated latency, including penalties for failures. Milliseconds.
    pub latency_ms: f64,
    /// Number of calls sent without a complete response.
    pub in_flight: usize,
    /// `closed`, `ejected` or `probing`.
    pub breaker: &'static str,
    /// Why it was ejected.
    pub reason: Option<String>,
    /// The remaining time of the ejection. Milliseconds.
    pub ejected_for_ms: Option<u64>,
}

/// The effective outlier detection (gRFC A50), its defaults included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// The policy's path in the service config.
    pub source: String,
    /// The time between two sweeps. Milliseconds.
    pub interval_ms: u64,
    /// The length of an endpoint's first ejection. Milliseconds.
    pub base_ejection_time_ms: u64,
    /// The maximum length of an ejection. Milliseconds.
    pub max_ejection_time_ms: u64,
    /// The maximum share of the connected endpoints that the two algorithms may eject. Percent.
    pub max_ejection_percent: u32,
    /// `None`: success rates are not compared.
    pub success_rate_ejection: Option<SuccessRateEjection>,
    /// `None`: the failure percentage is not considered.
    pub failure_percentage_ejection: Option<FailurePercentageEjection>,
}

/// One method's effective policy, and the source of each part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Method {
    /// `package.Service/Method`.
    pub name: String,
    /// The maximum duration of a call. Milliseconds.
    pub timeout_ms: u64,
    /// The source of the timeout: `contract`, or a path in the service config.
    pub timeout_source: String,
    /// Maximum number of attempts with retries; 1 without.
    pub max_attempts: u32,
    /// The codes after which a call is retried.
    pub retryable_codes: Vec<&'static str>,
    /// The source of the retry policy.
    pub retry_source: String,
    /// Maximum number of attempts with hedging; 1 without.
    pub max_hedged_attempts: u32,
    /// The source of the hedging policy.
    pub hedging_source: String,
    /// Whether calls wait for a connection while every endpoint is down.
    pub wait_for_ready: bool,
    /// The source of `wait_for_ready`.
    pub wait_for_ready_source: String,
    /// The 95th percentile that determines when to hedge; `None` while there are too few latencies. Milliseconds.
    pub p95_ms: Option<f64>,
}

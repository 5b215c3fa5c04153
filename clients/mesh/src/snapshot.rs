//! A channel as it is at one moment, for operators' eyes.

use serde::Serialize;

/// One channel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The service at the other end.
    pub service: String,
    /// What was configured: `static:…` or `dns:…`.
    pub target: String,
    /// Every known address, by its authority and address.
    pub endpoints: Vec<Endpoint>,
    /// Why no call can be sent; `None` while one can, or while connections are still being made.
    pub failing: Option<String>,
    /// What went through it in the last ten seconds.
    pub traffic: Traffic,
    /// Retries and hedges that the budget allows now, of the criticality that has the fewest left.
    pub retries_left: u32,
    /// The probability, 0 to 0.9, with which the next call is refused before it is sent, of the criticality that suffers
    /// most.
    pub refusal: f64,
    /// The effective policy of every method of the contract, by name.
    pub methods: Vec<Method>,
}

/// Calls and attempts of the last ten seconds. A failure is the other end's: what a caller did wrong counts as success.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// Calls that ended, a second.
    pub calls_per_s: f64,
    /// The share of calls that ended well, after all retries, 0 to 1; `None` without calls. The effective success.
    pub success: Option<f64>,
    /// Attempts that got a response or failed, a second.
    pub attempts_per_s: f64,
    /// The share of attempts that went well, 0 to 1. The actual success.
    pub attempt_success: Option<f64>,
    /// Median of the calls' durations, within a tenth. Milliseconds.
    pub p50_ms: Option<f64>,
    /// 95th percentile. Milliseconds.
    pub p95_ms: Option<f64>,
    /// 99th percentile. Milliseconds.
    pub p99_ms: Option<f64>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    /// What requests name as their authority.
    pub authority: String,
    /// What is connected to, `host:port`.
    pub address: String,
    /// Where it runs, when the target says so.
    pub zone: Option<String>,
    /// Whether there is a connection that takes calls.
    pub connected: bool,
    /// Why there is none.
    pub failure: Option<String>,
    /// Its share of an even load by its age, 0.1 to 1.
    pub weight: f64,
    /// Estimated latency, penalties for failures included. Milliseconds.
    pub latency_ms: f64,
    /// Calls sent and not yet answered to the end.
    pub in_flight: usize,
    /// `closed`, `ejected` or `probing`.
    pub breaker: &'static str,
    /// Why it was ejected.
    pub reason: Option<String>,
    /// How long it stays ejected. Milliseconds.
    pub ejected_for_ms: Option<u64>,
}

/// One method's effective policy, and where each part came from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Method {
    /// `package.Service/Method`.
    pub name: String,
    /// Ceiling of a call. Milliseconds.
    pub timeout_ms: u64,
    /// Where the timeout came from: `contract`, or a place in the service config.
    pub timeout_source: String,
    /// Attempts in all when retried, 1 when never.
    pub max_attempts: u32,
    /// The codes that are retried.
    pub retryable_codes: Vec<&'static str>,
    /// Where the retries came from.
    pub retry_source: String,
    /// Attempts in all when hedged, 1 when never.
    pub max_hedged_attempts: u32,
    /// Where the hedging came from.
    pub hedging_source: String,
    /// Whether calls wait for a connection while every endpoint is down.
    pub wait_for_ready: bool,
    /// Where that came from.
    pub wait_for_ready_source: String,
    /// The 95th percentile that hedges go by, once enough was observed. Milliseconds.
    pub p95_ms: Option<f64>,
}

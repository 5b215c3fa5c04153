//! Builds the [`Snapshot`] of a channel.

use std::time::Duration;

use tokio::time::Instant;

use super::Channel;
use crate::{
    code,
    discovery::Address,
    endpoint::{breaker::State, stats::Stats},
    method,
    outlier_detection::OutlierDetection,
    snapshot::{self, Snapshot},
    supervisor::KnownAddress,
};

impl Channel {
    /// The current state of the channel. Locks each endpoint once: meant for operators, not for every call.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let published = shared.published.borrow().clone();
        let mut endpoints: Vec<_> = published.addresses.iter().map(endpoint).collect();
        endpoints.sort_by(|a, b| (&a.authority, &a.address).cmp(&(&b.authority, &b.address)));
        let mut methods: Vec<_> = shared
            .methods()
            .iter()
            .filter_map(|known| method(known))
            .collect();
        methods.sort_by(|a, b| a.name.cmp(&b.name));
        Snapshot {
            service: shared.options.service.clone(),
            target: shared.options.target.clone(),
            endpoints,
            failing: published.failing.as_deref().map(str::to_owned),
            traffic: shared.metrics.traffic.snapshot(),
            retries_left: shared.budgets.remaining(),
            refusal: shared.histories.rejection_probability(),
            outlier_detection: shared.ejections.outlier_detection().as_deref().map(policy),
            methods,
        }
    }
}

fn endpoint(known: &KnownAddress) -> snapshot::Endpoint {
    let now = Instant::now();
    let Address {
        authority,
        host,
        port,
        zone,
        labels,
        ..
    } = &known.address;
    let stats: &Stats = &known.stats;
    let inner = stats.lock();
    let (breaker, reason, until) = match inner.breaker.state() {
        State::Closed => ("closed", None, None),
        State::Ejected { until, reason, .. } => ("ejected", Some(reason.clone()), Some(*until)),
        State::Probing { reason, .. } => ("probing", Some(reason.clone()), None),
    };
    snapshot::Endpoint {
        authority: authority.to_string(),
        address: match port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        },
        zone: zone.as_deref().map(str::to_owned),
        labels: labels
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        connected: known.connected,
        failure: known.failure.as_deref().map(str::to_owned),
        weight: inner.load.warmth(now),
        latency_ms: inner.load.estimate(now) * 1000.0,
        in_flight: stats.in_flight(),
        breaker,
        reason,
        ejected_for_ms: until.map(|until| until.saturating_duration_since(now).as_millis() as u64),
    }
}

fn policy(policy: &OutlierDetection) -> snapshot::OutlierDetection {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    snapshot::OutlierDetection {
        source: policy.source.clone(),
        interval_ms: ms(policy.interval),
        base_ejection_time_ms: ms(policy.base_ejection_time),
        max_ejection_time_ms: ms(policy.max_ejection_time),
        max_ejection_percent: policy.max_ejection_percent(),
        success_rate_ejection: policy.success_rate,
        failure_percentage_ejection: policy.failure_percentage,
    }
}

fn method(method: &method::Method) -> Option<snapshot::Method> {
    let policy = method.policy.as_ref()?;
    let retry = policy.retry.as_ref();
    let codes = retry.map(|retry| {
        retry
            .retryable_codes
            .iter()
            .map(|code| code::name(*code))
            .collect()
    });
    Some(snapshot::Method {
        name: method.name.to_string(),
        timeout_ms: u64::try_from(policy.timeout.as_millis()).unwrap_or(u64::MAX),
        timeout_source: method.sources.timeout.clone(),
        max_attempts: retry.map_or(1, |retry| retry.max_attempts),
        retryable_codes: codes.unwrap_or_default(),
        retry_source: method.sources.retry.clone(),
        max_hedged_attempts: policy.hedging.as_ref().map_or(1, |hedging| hedging.max_attempts),
        hedging_source: method.sources.hedging.clone(),
        wait_for_ready: method.wait_for_ready,
        wait_for_ready_source: method.sources.wait_for_ready.clone(),
        p95_ms: method.latencies.p95().map(|p95| p95.as_secs_f64() * 1000.0),
    })
}

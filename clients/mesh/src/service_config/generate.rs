//! Generates gRPC's standard service config from the contract, for clients in Python, Node, Go, Java and C++.
//!
//! Only fields of grpc/proto/service_config.proto are written, and only what standard clients support: they have
//! no balancing by the power of two choices, and their `hedgingPolicy` excludes a `retryPolicy`. If the contract
//! has both, the retry is kept, because the C core and Go do not support hedging and would then do neither.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    MethodPolicy, Policies, code,
    policy::{Hedging, Retry},
    retry::budget::Throttling,
};

/// The service config of a package (`order.v1`), its methods in alphabetical order; `None` if it has none.
///
/// Timeouts are the contract's. A method is retried or hedged only if the contract says that it may be
/// repeated. The health check watches the whole server (the empty name), because one connection serves all
/// services of the package.
pub fn generate_service_config(policies: &Policies, package: &str) -> Option<Value> {
    let mut methods: Vec<_> = policies
        .iter()
        .filter_map(|(path, policy)| {
            let (service, method) = path.strip_prefix('/')?.split_once('/')?;
            let (parent, _) = service.rsplit_once('.')?;
            (parent == package).then_some((service, method, policy))
        })
        .collect();
    methods.sort_unstable_by_key(|(service, method, _)| (*service, *method));
    let throttling = Throttling::default();
    (!methods.is_empty()).then(|| {
        json!({
            "loadBalancingConfig": [{ "round_robin": {} }],
            "methodConfig": methods.into_iter().map(method_config).collect::<Vec<_>>(),
            "retryThrottling": {
                // An integer in the standard: the C core rejects `100.0`.
                "maxTokens": throttling.max_tokens as u32,
                "tokenRatio": throttling.token_ratio,
            },
            "healthCheckConfig": { "serviceName": "" },
        })
    })
}

fn method_config((service, method, policy): (&str, &str, &MethodPolicy)) -> Value {
    let mut config = json!({
        "name": [{ "service": service, "method": method }],
    });
    if policy.timeout < Duration::MAX {
        config["timeout"] = duration(policy.timeout).into();
    }
    match (&policy.retry, &policy.hedging) {
        _ if !policy.repeatable() => {}
        (Some(retry), _) => config["retryPolicy"] = retry_policy(retry),
        (None, Some(hedging)) => config["hedgingPolicy"] = hedging_policy(hedging),
        (None, None) => {}
    }
    config
}

fn retry_policy(retry: &Retry) -> Value {
    json!({
        "maxAttempts": retry.max_attempts,
        "initialBackoff": duration(retry.initial_backoff),
        "maxBackoff": duration(retry.max_backoff),
        "backoffMultiplier": retry.backoff_multiplier,
        "retryableStatusCodes": retry.retryable_codes.iter().copied().map(code::name).collect::<Vec<_>>(),
    })
}

fn hedging_policy(hedging: &Hedging) -> Value {
    json!({
        "maxAttempts": hedging.max_attempts,
        "hedgingDelay": duration(hedging.delay),
        "nonFatalStatusCodes": hedging.non_fatal_codes.iter().copied().map(code::name).collect::<Vec<_>>(),
    })
}

/// A duration in Protobuf's JSON format: seconds with zero, three, six or nine decimal places.
fn duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if nanos == 0 {
        format!("{seconds}s")
    } else if nanos.is_multiple_of(1_000_000) {
        format!("{seconds}.{:03}s", nanos / 1_000_000)
    } else if nanos.is_multiple_of(1_000) {
        format!("{seconds}.{:06}s", nanos / 1_000)
    } else {
        format!("{seconds}.{nanos:09}s")
    }
}

#[cfg(test)]
mod tests;

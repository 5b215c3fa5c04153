use tonic::Code;

use super::*;
use crate::policy::Idempotency;

fn retry() -> Retry {
    Retry {
        max_attempts: 4,
        initial_backoff: Duration::from_millis(50),
        max_backoff: Duration::from_secs(1),
        backoff_multiplier: 2.0,
        retryable_codes: vec![Code::Unavailable, Code::ResourceExhausted],
        attempt_timeout: None,
    }
}

fn hedging() -> Hedging {
    Hedging {
        max_attempts: 2,
        delay: Duration::from_micros(1_500),
        non_fatal_codes: vec![Code::Unavailable],
    }
}

/// The config generated for one method, whose default policy is modified by `change`.
fn config_of(change: impl FnOnce(&mut MethodPolicy)) -> Value {
    let mut policy = MethodPolicy::new(Duration::from_secs(5));
    change(&mut policy);
    let policies = Policies::from_methods([("/a.v1.Things/Get".to_owned(), policy)]);
    generate_service_config(&policies, "a.v1").unwrap()["methodConfig"][0].take()
}

#[test]
fn a_method_is_written_with_standard_names_durations_and_codes() {
    let config = config_of(|policy| {
        policy.idempotency = Idempotency::Idempotent;
        policy.retry = Some(retry());
    });
    let expected = json!({
        "name": [{ "service": "a.v1.Things", "method": "Get" }],
        "timeout": "5s",
        "retryPolicy": {
            "maxAttempts": 4, "initialBackoff": "0.050s", "maxBackoff": "1s", "backoffMultiplier": 2.0,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        },
    });
    assert_eq!(config, expected);
}

#[test]
fn hedging_is_written_only_where_there_is_no_retry() {
    let reads = |policy: &mut MethodPolicy| {
        policy.idempotency = Idempotency::NoSideEffects;
        policy.hedging = Some(hedging());
    };
    let hedged = config_of(reads);
    let expected =
        json!({ "maxAttempts": 2, "hedgingDelay": "0.001500s", "nonFatalStatusCodes": ["UNAVAILABLE"] });
    assert_eq!(hedged["hedgingPolicy"], expected);

    let both = config_of(|policy| {
        reads(policy);
        policy.retry = Some(retry());
    });
    assert!(
        both.get("retryPolicy").is_some() && both.get("hedgingPolicy").is_none(),
        "{both}"
    );
}

#[test]
fn a_method_that_may_not_be_repeated_is_neither_retried_nor_hedged() {
    let config = config_of(|policy| {
        policy.retry = Some(retry());
        policy.hedging = Some(hedging());
    });
    assert!(
        config.get("retryPolicy").is_none() && config.get("hedgingPolicy").is_none(),
        "{config}"
    );
}

#[test]
fn a_package_without_methods_has_no_config() {
    let policies =
        Policies::from_methods([("/a.v1.Things/Get".to_owned(), MethodPolicy::new(Duration::ZERO))]);
    assert!(generate_service_config(&policies, "a").is_none());
    assert!(generate_service_config(&policies, "a.v1.Things").is_none());
}

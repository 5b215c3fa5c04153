use tonic::Code;

use super::*;
use crate::{policy::Idempotency, service_config::ServiceConfig};

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
    policies.service_config("a.v1").unwrap()["methodConfig"][0].take()
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
    assert!(policies.service_config("a").is_none());
    assert!(policies.service_config("a.v1.Things").is_none());
}

/// The strict parser of operators' overrides checks the generated names and formats.
#[test]
fn the_strict_parser_accepts_the_config_generated_from_the_contract() {
    let policies = Policies::from_descriptors(proto::DESCRIPTORS).unwrap();
    for package in ["order.v1", "payment.v1", "claims.v1"] {
        let config = policies.service_config(package).unwrap();
        let read = ServiceConfig::parse(&config.to_string()).unwrap();
        let mut found = 0;
        for (path, policy) in policies
            .iter()
            .filter(|(path, _)| path.starts_with(&format!("/{package}.")))
        {
            let (service, method) = path[1..].split_once('/').unwrap();
            let (_, config) = read.find(service, method).unwrap();
            assert_eq!(config.timeout, Some(policy.timeout), "{path}");
            assert_eq!(
                config
                    .retry_policy
                    .as_ref()
                    .map(|retry| (retry.max_attempts, retry.initial_backoff)),
                policy
                    .retry
                    .as_ref()
                    .map(|retry| (retry.max_attempts, retry.initial_backoff)),
                "{path}"
            );
            found += 1;
        }
        assert_eq!(found, read.method_config.len(), "{package}");
    }
}

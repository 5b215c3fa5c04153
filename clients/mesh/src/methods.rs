//! The effective policy of each method: the contract, overridden by the operator's service config.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    Error, MethodPolicy, Policies,
    message_size::MessageLimit,
    method::Method,
    policy::{Hedging, Idempotency, Retry},
    service_config::{MethodConfig, ServiceConfig, invalid},
};

/// All methods of a channel, by path.
#[derive(Debug)]
pub(crate) struct Methods {
    by_path: HashMap<String, Arc<Method>>,
    /// For methods that the service config names and the contract does not: one for each entry of the config.
    configured: Vec<Arc<Method>>,
    config: ServiceConfig,
    /// For methods without a policy.
    unlisted: Arc<Method>,
}

impl Methods {
    /// Overrides the contract's policies with the service config.
    ///
    /// # Errors
    /// If the result violates a rule for policies, such as a retry of a method that is not idempotent, or if the
    /// config names a method that the contract does not have.
    pub(crate) fn new(
        policies: &Policies,
        config: &ServiceConfig,
        wait_for_ready: bool,
    ) -> Result<Methods, Error> {
        check_names(policies, config)?;
        let mut by_path = HashMap::new();
        for (path, declared) in policies.iter() {
            let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
            let mut method = Method::new(path.trim_start_matches('/'), None);
            method.wait_for_ready = wait_for_ready;
            let mut policy = declared.clone();
            if let Some((place, overrides)) = config.find(service, name) {
                apply(overrides, place, &mut policy, &mut method)?;
            }
            method.policy = Some(Arc::new(policy));
            by_path.insert(path.to_owned(), Arc::new(method));
        }
        let mut configured = Vec::new();
        for (place, overrides) in config.method_config.iter().enumerate() {
            let mut method = unlisted(wait_for_ready);
            let mut policy = MethodPolicy {
                declared: false,
                ..MethodPolicy::new(Duration::MAX)
            };
            apply(overrides, place, &mut policy, &mut method)?;
            // The response may be a stream, so its duration must not count as latency.
            policy.server_streaming = true;
            method.policy = Some(Arc::new(policy));
            configured.push(Arc::new(method));
        }
        Ok(Methods {
            by_path,
            configured,
            config: config.clone(),
            unlisted: Arc::new(unlisted(wait_for_ready)),
        })
    }

    pub(crate) fn get(&self, path: &str) -> &Arc<Method> {
        if let Some(method) = self.by_path.get(path) {
            return method;
        }
        let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let place = self.config.find(service, name).map(|(place, _)| place);
        place
            .and_then(|place| self.configured.get(place))
            .unwrap_or(&self.unlisted)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.by_path.values()
    }
}

/// Stands for all methods without a policy.
fn unlisted(wait_for_ready: bool) -> Method {
    let mut unlisted = Method::new("_OTHER", None);
    unlisted.wait_for_ready = wait_for_ready;
    unlisted.baseline = None;
    unlisted
}

/// Rejects method names that a known service does not have. Services that are not in the contract are accepted.
fn check_names(policies: &Policies, config: &ServiceConfig) -> Result<(), Error> {
    for (place, overrides) in config.method_config.iter().enumerate() {
        for (index, name) in overrides.name.iter().enumerate() {
            let prefix = if name.service.is_empty() {
                "/".to_owned()
            } else {
                format!("/{}/", name.service)
            };
            let of_service = || policies.iter().filter_map(|(path, _)| path.strip_prefix(&prefix));
            let known = name.method.is_empty() || of_service().any(|method| method == name.method);
            if !known && of_service().next().is_some() {
                return Err(invalid(
                    &format!("methodConfig[{place}].name[{index}]"),
                    "is not in the contract",
                ));
            }
        }
    }
    Ok(())
}

fn apply(
    overrides: &MethodConfig,
    place: usize,
    policy: &mut MethodPolicy,
    method: &mut Method,
) -> Result<(), Error> {
    let source = |field: &str| format!("methodConfig[{place}].{field}");
    if let Some(wait) = overrides.wait_for_ready {
        method.wait_for_ready = wait;
        method.sources.wait_for_ready = source("waitForReady");
    }
    if let Some(timeout) = overrides.timeout {
        policy.timeout = timeout;
        method.sources.timeout = source("timeout");
    }
    if let Some(retry) = &overrides.retry_policy {
        policy.retry = Some(Retry {
            max_attempts: retry.max_attempts,
            initial_backoff: retry.initial_backoff,
            max_backoff: retry.max_backoff,
            backoff_multiplier: retry.backoff_multiplier,
            retryable_codes: retry.retryable_status_codes.clone(),
            attempt_timeout: retry.per_attempt_recv_timeout,
        });
        if !policy.declared && policy.idempotency == Idempotency::Unknown {
            policy.idempotency = Idempotency::Idempotent;
        }
        policy.hedging = None;
        method.sources.retry = source("retryPolicy");
        method.sources.hedging = source("retryPolicy");
    }
    if let Some(hedging) = &overrides.hedging_policy {
        policy.hedging = Some(Hedging {
            max_attempts: hedging.max_attempts,
            delay: hedging.hedging_delay,
            non_fatal_codes: hedging.non_fatal_status_codes.clone(),
        });
        method.sources.hedging = source("hedgingPolicy");
        if !policy.declared {
            policy.idempotency = Idempotency::NoSideEffects;
        }
    }
    let limit = |setting, bytes: Option<u32>| bytes.map(|bytes| MessageLimit { setting, bytes });
    method.request_limit = limit("maxRequestMessageBytes", overrides.max_request_message_bytes);
    method.response_limit = limit("maxResponseMessageBytes", overrides.max_response_message_bytes);
    match policy.errors().first() {
        None => Ok(()),
        Some(reason) => Err(invalid(
            &format!("methodConfig[{place}]"),
            &format!("for {}: {reason}", method.name),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies() -> Policies {
        let read = MethodPolicy {
            idempotency: Idempotency::NoSideEffects,
            ..MethodPolicy::new(Duration::from_secs(1))
        };
        let write = MethodPolicy::new(Duration::from_secs(2));
        Policies::from_methods([("/a.B/Read".to_owned(), read), ("/a.B/Write".to_owned(), write)])
    }

    fn build(json: &str) -> Result<Methods, Error> {
        Methods::new(&policies(), &ServiceConfig::parse(json)?, false)
    }

    const RETRY: &str = r#"{"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s",
        "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}"#;

    #[test]
    fn overrides_apply_and_their_sources_are_recorded() {
        let methods = build(&format!(
            r#"{{"methodConfig": [{{"name": [{{}}], "timeout": "7s"}},
                {{"name": [{{"service": "a.B", "method": "Read"}}], "waitForReady": true, "retryPolicy": {RETRY}}}]}}"#
        ))
        .unwrap();
        let (read, write) = (methods.get("/a.B/Read"), methods.get("/a.B/Write"));
        assert_eq!(
            read.policy.as_ref().unwrap().timeout,
            Duration::from_secs(1),
            "one config applies, not two"
        );
        assert!(read.wait_for_ready && !write.wait_for_ready);
        assert_eq!(read.sources.retry, "methodConfig[1].retryPolicy");
        assert_eq!(read.sources.timeout, "contract");
        assert_eq!(write.policy.as_ref().unwrap().timeout, Duration::from_secs(7));
        assert_eq!(write.sources.timeout, "methodConfig[0].timeout");
    }

    #[test]
    fn an_override_that_retries_an_unsafe_method_is_rejected() {
        let error = build(&format!(
            r#"{{"methodConfig": [{{"name": [{{"service": "a.B"}}], "retryPolicy": {RETRY}}}]}}"#
        ));
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("methodConfig[0]") && text.contains("a.B/Write"),
            "{text}"
        );
    }

    #[test]
    fn services_outside_the_contract_are_configured_as_the_standard_says() {
        let methods = build(&format!(
            r#"{{"methodConfig": [{{"name": [{{"service": "x.Y", "method": "Z"}}], "timeout": "3s", "retryPolicy": {RETRY}}}]}}"#
        ))
        .unwrap();
        let configured = methods.get("/x.Y/Z").policy.clone().unwrap();
        assert_eq!(configured.timeout, Duration::from_secs(3));
        assert!(configured.repeatable() && configured.retry.is_some());
        assert!(methods.get("/x.Y/Other").policy.is_none());
        assert!(methods.get("/a.B/Write").policy.as_ref().unwrap().retry.is_none());
    }

    #[test]
    fn a_method_that_the_contract_does_not_have_is_rejected() {
        let error =
            build(r#"{"methodConfig": [{"name": [{"service": "a.B", "method": "Reed"}]}]}"#).unwrap_err();
        assert!(error.to_string().contains("methodConfig[0].name[0]"));
    }
}

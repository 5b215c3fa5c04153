//! The effective policy of each method: the contract, overridden by the operator's service config.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    Error, MethodPolicy, Policies,
    message_size::MessageLimit,
    method::Method,
    policy::{self, Hedging, Idempotency, Retry},
    route::{MethodRoutes, Routes},
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
            method.routes = MethodRoutes::for_method(config.routes.as_ref(), service, name);
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
            method.routes = MethodRoutes::for_any_method(config.routes.as_ref());
            configured.push(Arc::new(method));
        }
        let mut unlisted = unlisted(wait_for_ready);
        unlisted.routes = MethodRoutes::for_any_method(config.routes.as_ref());
        Ok(Methods {
            by_path,
            configured,
            config: config.clone(),
            unlisted: Arc::new(unlisted),
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
            if lacks(policies, &name.service, &name.method) {
                return Err(invalid(
                    &format!("methodConfig[{place}].name[{index}]"),
                    "is not in the contract",
                ));
            }
        }
    }
    let Some(Routes { path, routes }) = &config.routes else {
        return Ok(());
    };
    for (place, route) in routes.iter().enumerate() {
        if lacks(policies, &route.service, &route.method) {
            return Err(invalid(
                &format!("{path}[{place}].match.method"),
                "is not in the contract",
            ));
        }
    }
    Ok(())
}

/// Whether the contract has the service but not the method. An empty method stands for all methods.
fn lacks(policies: &Policies, service: &str, method: &str) -> bool {
    let prefix = if service.is_empty() {
        "/".to_owned()
    } else {
        format!("/{service}/")
    };
    let of_service = || policies.iter().filter_map(|(path, _)| path.strip_prefix(&prefix));
    let known = method.is_empty() || of_service().any(|known| known == method);
    !known && of_service().next().is_some()
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
    let mut errors = Vec::new();
    policy::validate(policy, &mut errors);
    match errors.first() {
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

    #[test]
    fn each_method_has_the_routes_that_may_match_its_calls() {
        let config = |matching: &str| {
            let split = r#"[{"labels": {"version": "v2"}, "weight": 1}]"#;
            build(&format!(
                r#"{{"loadBalancingConfig": [{{"weft_routes": {{"routes": [{{"match": {matching}, "split": {split}}}]}}}}]}}"#
            ))
        };
        let routed = |methods: &Methods, path: &str| {
            let routes = methods.get(path).routes.as_ref();
            routes.is_some_and(|routes| routes.destination(path, &http::HeaderMap::new()).is_some())
        };
        let methods = config(r#"{"service": "a.B", "method": "Read"}"#).unwrap();
        assert!(routed(&methods, "/a.B/Read") && methods.get("/a.B/Write").routes.is_none());
        assert!(!routed(&methods, "/x.Y/Read"));
        let methods = config(r#"{"service": "x.Y", "method": "Z"}"#).unwrap();
        assert!(routed(&methods, "/x.Y/Z") && !routed(&methods, "/x.Y/Other"));
        assert!(methods.get("/a.B/Read").routes.is_none());
        let error = config(r#"{"service": "a.B", "method": "Reed"}"#).unwrap_err();
        let path = "loadBalancingConfig[0].weft_routes.routes[0].match.method";
        assert!(error.to_string().contains(path), "{error}");
        assert!(build("{}").unwrap().get("/x.Y/Z").routes.is_none());
    }
}

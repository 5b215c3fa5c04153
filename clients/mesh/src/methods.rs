//! The effective policy of each method: the contract, overridden by the service config and by the application.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    Error, MethodPolicy, Policies,
    call_policy::CallPolicies,
    message_size::MessageLimit,
    method::Method,
    policy::{Hedging, Idempotency, Retry},
    route::{MethodRoutes, Routes},
    service_config::{ServiceConfig, invalid},
};

/// All methods of a channel, by path.
#[derive(Debug)]
pub(crate) struct Methods {
    by_path: HashMap<String, Arc<Method>>,
    layers: [Layer; 2],
    /// For methods that the contract does not have: one for each pair of the entries that may apply to them, the
    /// service config's and the application's. Without an entry they come first.
    others: Vec<Vec<Arc<Method>>>,
}

/// Overrides of the contract.
#[derive(Clone, Debug)]
struct Layer {
    config: ServiceConfig,
    origin: Origin,
}

#[derive(Clone, Copy, Debug)]
enum Origin {
    ServiceConfig,
    Application,
}

impl Methods {
    /// Overrides the contract's policies with the service config, and both with what the application says.
    ///
    /// # Errors
    /// If the result violates a rule for policies, such as a retry of a method that is not idempotent, or if a
    /// method is named that the contract does not have.
    pub(crate) fn new(
        policies: &Policies,
        config: &ServiceConfig,
        application: &CallPolicies,
        wait_for_ready: bool,
    ) -> Result<Methods, Error> {
        // A later one takes precedence.
        let layers = [
            Layer {
                config: config.clone(),
                origin: Origin::ServiceConfig,
            },
            Layer {
                config: application.config().clone(),
                origin: Origin::Application,
            },
        ];
        for layer in &layers {
            layer.check_names(policies)?;
        }
        check_routes(policies, config)?;
        let unlisted = || {
            let mut method = unlisted(wait_for_ready);
            method.routes = MethodRoutes::for_any_method(config.routes.as_ref());
            method
        };
        let mut by_path = HashMap::new();
        for (path, declared) in policies.iter() {
            let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
            let mut method = Method::new(path.trim_start_matches('/'), None);
            method.wait_for_ready = wait_for_ready;
            let mut policy = declared.clone();
            for layer in &layers {
                if let Some((place, _)) = layer.config.find(service, name) {
                    layer.apply(place, &mut policy, &mut method)?;
                }
            }
            method.policy = Some(Arc::new(policy));
            method.routes = MethodRoutes::for_method(config.routes.as_ref(), service, name);
            by_path.insert(path.to_owned(), Arc::new(method));
        }
        let others = others(&layers, unlisted)?;
        Ok(Methods {
            by_path,
            layers,
            others,
        })
    }

    pub(crate) fn get(&self, path: &str) -> &Arc<Method> {
        if let Some(method) = self.by_path.get(path) {
            return method;
        }
        let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let [config, application] = self.layers.each_ref().map(|layer| {
            let found = layer.config.find(service, name);
            found.map_or(0, |(place, _)| place + 1)
        });
        &self.others[config][application]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.by_path.values()
    }
}

/// The methods outside the contract: see [`Methods::others`].
fn others(layers: &[Layer; 2], unlisted: impl Fn() -> Method) -> Result<Vec<Vec<Arc<Method>>>, Error> {
    let [configs, applications] = layers.each_ref().map(|layer| layer.config.method_config.len());
    let other = |config: usize, application: usize| -> Result<Arc<Method>, Error> {
        let mut method = unlisted();
        if config + application > 0 {
            let mut policy = MethodPolicy {
                declared: false,
                ..MethodPolicy::new(Duration::MAX)
            };
            for (layer, entry) in layers.iter().zip([config, application]) {
                if let Some(place) = entry.checked_sub(1) {
                    layer.apply(place, &mut policy, &mut method)?;
                }
            }
            // The response may be a stream, so its duration must not count as latency.
            policy.server_streaming = true;
            method.policy = Some(Arc::new(policy));
        }
        Ok(Arc::new(method))
    };
    (0..=configs)
        .map(|config| {
            (0..=applications)
                .map(|application| other(config, application))
                .collect()
        })
        .collect()
}

/// Stands for all methods without a policy.
fn unlisted(wait_for_ready: bool) -> Method {
    let mut unlisted = Method::new("_OTHER", None);
    unlisted.wait_for_ready = wait_for_ready;
    unlisted.baseline = None;
    unlisted
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

/// Rejects routes for methods that a known service does not have.
fn check_routes(policies: &Policies, config: &ServiceConfig) -> Result<(), Error> {
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

impl Layer {
    /// An error of the entry at `place`, or of a field of it.
    fn error(&self, place: usize, field: &str, reason: &str) -> Error {
        match self.origin {
            Origin::ServiceConfig => invalid(&format!("methodConfig[{place}]{field}"), reason),
            Origin::Application => Error::Setting {
                setting: "policy".to_owned(),
                reason: reason.to_owned(),
            },
        }
    }

    /// Rejects method names that a known service does not have. Services that are not in the contract are accepted.
    fn check_names(&self, policies: &Policies) -> Result<(), Error> {
        for (place, overrides) in self.config.method_config.iter().enumerate() {
            for (index, name) in overrides.name.iter().enumerate() {
                if lacks(policies, &name.service, &name.method) {
                    let reason = format!("{}/{} is not in the contract", name.service, name.method);
                    return Err(self.error(place, &format!(".name[{index}]"), &reason));
                }
            }
        }
        Ok(())
    }

    /// Applies the entry at `place` to a method.
    fn apply(&self, place: usize, policy: &mut MethodPolicy, method: &mut Method) -> Result<(), Error> {
        let overrides = &self.config.method_config[place];
        let source = |field: &str| match self.origin {
            Origin::ServiceConfig => format!("methodConfig[{place}].{field}"),
            Origin::Application => "application".to_owned(),
        };
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
            if matches!(self.origin, Origin::Application) {
                policy.retry = None;
                method.sources.retry = source("hedgingPolicy");
            }
            method.sources.hedging = source("hedgingPolicy");
            if !policy.declared {
                policy.idempotency = Idempotency::NoSideEffects;
            }
        }
        let limit = |setting, bytes: Option<u32>, now: Option<MessageLimit>| {
            bytes.map(|bytes| MessageLimit { setting, bytes }).or(now)
        };
        method.request_limit = limit(
            "maxRequestMessageBytes",
            overrides.max_request_message_bytes,
            method.request_limit,
        );
        method.response_limit = limit(
            "maxResponseMessageBytes",
            overrides.max_response_message_bytes,
            method.response_limit,
        );
        match policy.errors().first() {
            None => Ok(()),
            Some(reason) => Err(self.error(place, "", &format!("for {}: {reason}", method.name))),
        }
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
        Methods::new(
            &policies(),
            &ServiceConfig::parse(json)?,
            &CallPolicies::default(),
            false,
        )
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

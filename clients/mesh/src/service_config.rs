//! Overrides by operators: gRPC's standard service config (grpc/proto/service_config.proto, as JSON).
//!
//! Parsing is strict: unknown, unsupported or contradictory settings are errors with their path, because a
//! silently ignored setting would be discovered only in an outage.

mod balancing;
pub(crate) mod file;
mod generate;
mod policies;
mod routes;
mod scalars;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tonic::Code;

use crate::{Error, outlier_detection::OutlierDetection, route::Routes};
pub use generate::generate_service_config;
use policies::Policy;
use scalars::{codes, duration, number};

/// A valid service config.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ServiceConfig {
    load_balancing_config: Vec<Policy>,
    /// From `load_balancing_config`.
    #[serde(skip)]
    pub(crate) outlier_detection: Option<Arc<OutlierDetection>>,
    /// From `load_balancing_config`.
    #[serde(skip)]
    pub(crate) routes: Option<Routes>,
    pub(crate) method_config: Vec<MethodConfig>,
    pub(crate) retry_throttling: Option<RetryThrottling>,
    pub(crate) health_check_config: Option<HealthCheckConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MethodConfig {
    #[serde(default)]
    pub(crate) name: Vec<Name>,
    pub(crate) wait_for_ready: Option<bool>,
    #[serde(default, deserialize_with = "duration::optional")]
    pub(crate) timeout: Option<Duration>,
    #[serde(default, deserialize_with = "number::optional")]
    pub(crate) max_request_message_bytes: Option<u32>,
    #[serde(default, deserialize_with = "number::optional")]
    pub(crate) max_response_message_bytes: Option<u32>,
    pub(crate) retry_policy: Option<RetryPolicy>,
    pub(crate) hedging_policy: Option<HedgingPolicy>,
}

/// An empty service stands for all methods; an empty method stands for all methods of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Name {
    pub(crate) service: String,
    pub(crate) method: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RetryPolicy {
    /// More than 5 count as 5 (gRFC A6).
    #[serde(deserialize_with = "number::attempts")]
    pub(crate) max_attempts: u32,
    #[serde(deserialize_with = "duration::required")]
    pub(crate) initial_backoff: Duration,
    #[serde(deserialize_with = "duration::required")]
    pub(crate) max_backoff: Duration,
    pub(crate) backoff_multiplier: f64,
    #[serde(deserialize_with = "codes::list")]
    pub(crate) retryable_status_codes: Vec<Code>,
    #[serde(default, deserialize_with = "duration::optional")]
    pub(crate) per_attempt_recv_timeout: Option<Duration>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HedgingPolicy {
    #[serde(deserialize_with = "number::attempts")]
    pub(crate) max_attempts: u32,
    #[serde(deserialize_with = "duration::required")]
    pub(crate) hedging_delay: Duration,
    #[serde(default, deserialize_with = "codes::list")]
    pub(crate) non_fatal_status_codes: Vec<Code>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RetryThrottling {
    pub(crate) max_tokens: f64,
    pub(crate) token_ratio: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HealthCheckConfig {
    pub(crate) service_name: String,
}

impl ServiceConfig {
    /// Parses and validates a service config.
    pub(crate) fn parse(json: &str) -> Result<ServiceConfig, Error> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let mut config: ServiceConfig = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| invalid(&error.path().to_string(), &error.inner().to_string()))?;
        deserializer
            .end()
            .map_err(|error| invalid(".", &error.to_string()))?;
        config.check()?;
        let balancing = balancing::read(&config.load_balancing_config)?;
        config.outlier_detection = balancing.outlier_detection.map(Arc::new);
        config.routes = balancing.routes;
        Ok(config)
    }

    fn check(&self) -> Result<(), Error> {
        if let Some(RetryThrottling {
            max_tokens,
            token_ratio,
        }) = self.retry_throttling
        {
            if !(max_tokens > 0.0 && max_tokens <= 1000.0) {
                return Err(invalid(
                    "retryThrottling.maxTokens",
                    "must be more than 0 and at most 1000",
                ));
            }
            if token_ratio.is_nan() || token_ratio <= 0.0 {
                return Err(invalid("retryThrottling.tokenRatio", "must be more than 0"));
            }
        }
        let mut seen: Vec<&Name> = Vec::new();
        for (place, config) in self.method_config.iter().enumerate() {
            if config.retry_policy.is_some() && config.hedging_policy.is_some() {
                let path = format!("methodConfig[{place}].hedgingPolicy");
                return Err(invalid(&path, "contradicts the retryPolicy beside it"));
            }
            if config.name.is_empty() {
                return Err(invalid(
                    &format!("methodConfig[{place}].name"),
                    "must not be empty",
                ));
            }
            for (index, name) in config.name.iter().enumerate() {
                let path = format!("methodConfig[{place}].name[{index}]");
                if name.service.is_empty() && !name.method.is_empty() {
                    return Err(invalid(&path, "names a method without its service"));
                }
                if seen.contains(&name) {
                    return Err(invalid(&path, "was named before"));
                }
                seen.push(name);
            }
        }
        Ok(())
    }

    /// The config of a method, with its index: the exact name takes precedence over the service, the service over
    /// the default.
    pub(crate) fn find(&self, service: &str, method: &str) -> Option<(usize, &MethodConfig)> {
        [(service, method), (service, ""), ("", "")]
            .into_iter()
            .find_map(|(service, method)| {
                let matches = |name: &Name| name.service == service && name.method == method;
                self.method_config
                    .iter()
                    .enumerate()
                    .find(|(_, config)| config.name.iter().any(matches))
            })
    }
}

pub(crate) fn invalid(path: &str, reason: &str) -> Error {
    Error::ServiceConfig {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;

//! What the application itself says about the calls of some methods.

use std::time::Duration;

use crate::{
    policy::{Hedging, Retry},
    service_config::{HedgingPolicy, MethodConfig, Name, RetryPolicy, ServiceConfig},
};

/// Timeouts, retries and limits of calls, set by the application. What is not set is decided by the service config,
/// and then by the contract.
///
/// ```
/// use std::time::Duration;
/// use weft_mesh::{CallPolicy, policy::Retry};
///
/// let policy = CallPolicy::new()
///     .timeout(Duration::from_secs(1))
///     .retry(Retry::new(3));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct CallPolicy {
    config: MethodConfig,
}

impl CallPolicy {
    /// Sets nothing.
    pub fn new() -> CallPolicy {
        CallPolicy::default()
    }

    /// The maximum duration of a call, with all its attempts. The caller's own deadline can only be shorter.
    pub fn timeout(mut self, timeout: Duration) -> CallPolicy {
        self.config.timeout = Some(timeout);
        self
    }

    /// Repeats failed calls. For a method whose contract says nothing about repetition this declares that it may be
    /// repeated. Excludes [`CallPolicy::hedge`].
    pub fn retry(mut self, retry: Retry) -> CallPolicy {
        self.config.retry_policy = Some(RetryPolicy {
            max_attempts: retry.max_attempts,
            initial_backoff: retry.initial_backoff,
            max_backoff: retry.max_backoff,
            backoff_multiplier: retry.backoff_multiplier,
            retryable_status_codes: retry.retryable_codes,
            per_attempt_recv_timeout: retry.attempt_timeout,
        });
        self.config.hedging_policy = None;
        self
    }

    /// Starts further attempts while the first one has no response. For methods without side effects; for one whose
    /// contract says nothing, this declares that it has none. Excludes [`CallPolicy::retry`].
    pub fn hedge(mut self, hedging: Hedging) -> CallPolicy {
        self.config.hedging_policy = Some(HedgingPolicy {
            max_attempts: hedging.max_attempts,
            hedging_delay: hedging.delay,
            non_fatal_status_codes: hedging.non_fatal_codes,
        });
        self.config.retry_policy = None;
        self
    }

    /// Whether calls wait for a connection while every endpoint is down, until their deadline.
    pub fn wait_for_ready(mut self, wait: bool) -> CallPolicy {
        self.config.wait_for_ready = Some(wait);
        self
    }

    /// The largest request message. Bytes.
    pub fn max_request_bytes(mut self, bytes: u32) -> CallPolicy {
        self.config.max_request_message_bytes = Some(bytes);
        self
    }

    /// The largest response message. Bytes.
    pub fn max_response_bytes(mut self, bytes: u32) -> CallPolicy {
        self.config.max_response_message_bytes = Some(bytes);
        self
    }
}

/// The policies of a channel's methods. As in a service config, the policy of a method takes precedence over that of
/// its service, and this over that of all methods; they are not merged.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallPolicies {
    config: ServiceConfig,
    /// The first name that is not one.
    invalid: Option<String>,
}

impl CallPolicies {
    /// `methods`: `greeter.v1.Greeter/SayHello`, `greeter.v1.Greeter` or `greeter.v1.Greeter/*`, or `*`; a `/` in front is ignored.
    pub(crate) fn add(&mut self, methods: &str, policy: CallPolicy) {
        let path = methods.trim_start_matches('/');
        let (service, method) = match path.split_once('/') {
            None if path == "*" => ("", ""),
            None => (path, ""),
            Some((service, "*")) => (service, ""),
            Some(both) => both,
        };
        let is_name = |name: &str| !name.contains(['*', '/']);
        let is_empty = service.is_empty() && path != "*" || path.ends_with('/');
        if is_empty || !is_name(service) || !is_name(method) {
            self.invalid.get_or_insert_with(|| methods.to_owned());
            return;
        }
        let name = Name {
            service: service.to_owned(),
            method: method.to_owned(),
        };
        for earlier in &mut self.config.method_config {
            earlier.name.retain(|other| *other != name);
        }
        self.config.method_config.push(MethodConfig {
            name: vec![name],
            ..policy.config
        });
    }

    pub(crate) fn config(&self) -> &ServiceConfig {
        &self.config
    }

    /// The first name of methods that is not one.
    pub(crate) fn invalid(&self) -> Option<&str> {
        self.invalid.as_deref()
    }
}

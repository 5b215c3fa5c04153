//! Maps the descriptor set's extension options to [`MethodPolicy`], and collects all errors of the contract.

use std::time::Duration;

use prost_reflect::{DescriptorPool, ExtensionDescriptor, MethodDescriptor, ServiceDescriptor, Value};
use proto::mesh::v1 as wire;
use tonic::Code;

use super::{Criticality, Hedging, Idempotency, MethodPolicy, Policies, RateLimitClass, Retry, Role};
use crate::Error;

const EXTENSION: &str = "mesh.v1.policy";
/// The option of a value of `mesh.v1.RetryClass` that holds the retries of the class.
const RETRIES: &str = "mesh.v1.retries";

/// Like [`read`], but services without any policy get defaults.
pub(super) fn read_any(encoded: &[u8]) -> Result<Policies, Error> {
    let pool = DescriptorPool::decode(encoded).map_err(Error::Descriptors)?;
    let extension = pool.get_extension_by_name(EXTENSION);
    let (mut methods, mut errors) = (Vec::new(), Vec::new());
    for service in pool.services() {
        let without_policy = !extension
            .as_ref()
            .is_some_and(|extension| has_policy(&service, extension));
        if without_policy && is_external(service.package_name()) {
            continue;
        }
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            match &extension {
                Some(extension) if !without_policy => match method_policy(&method, extension) {
                    Ok(policy) => methods.push((path, policy)),
                    Err(found) => errors.extend(with_method_name(&method, found)),
                },
                _ => methods.push((path, undeclared(&method))),
            }
        }
    }
    if errors.is_empty() {
        Ok(Policies::from_methods(methods))
    } else {
        Err(Error::Contract(errors))
    }
}

fn with_method_name(method: &MethodDescriptor, errors: Vec<String>) -> impl Iterator<Item = String> {
    let name = method.full_name().to_owned();
    errors.into_iter().map(move |error| format!("{name}: {error}"))
}

/// The policy of a method without our options.
fn undeclared(method: &MethodDescriptor) -> MethodPolicy {
    MethodPolicy {
        declared: false,
        idempotency: idempotency(method).unwrap_or(Idempotency::Unknown),
        ..from_descriptor(method, Duration::MAX)
    }
}

fn from_descriptor(method: &MethodDescriptor, timeout: Duration) -> MethodPolicy {
    MethodPolicy {
        client_streaming: method.is_client_streaming(),
        server_streaming: method.is_server_streaming(),
        input: method.input().full_name().to_owned(),
        ..MethodPolicy::new(timeout)
    }
}

/// The idempotency level; `None` if it is not set.
fn idempotency(method: &MethodDescriptor) -> Option<Idempotency> {
    let options = method.options();
    let level = options.get_field_by_name("idempotency_level");
    let number = level.as_deref().and_then(Value::as_enum_number);
    options
        .has_field_by_name("idempotency_level")
        .then_some(match number {
            Some(1) => Idempotency::NoSideEffects,
            Some(2) => Idempotency::Idempotent,
            _ => Idempotency::Unknown,
        })
}

pub(super) fn read(encoded: &[u8]) -> Result<Policies, Error> {
    let pool = DescriptorPool::decode(encoded).map_err(Error::Descriptors)?;
    let extension = pool
        .get_extension_by_name(EXTENSION)
        .ok_or_else(|| Error::Contract(vec![format!("the descriptor set has no extension {EXTENSION}")]))?;
    let mut methods = Vec::new();
    let mut errors = Vec::new();
    let read = pool
        .services()
        .filter(|service| !is_external(service.package_name()) || has_policy(service, &extension));
    for method in read.flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        match method_policy(&method, &extension) {
            Ok(policy) => methods.push((path, policy)),
            Err(found) => errors.extend(with_method_name(&method, found)),
        }
    }
    if errors.is_empty() {
        Ok(Policies::from_methods(methods))
    } else {
        Err(Error::Contract(errors))
    }
}

/// Whether any method of the service has a policy.
fn has_policy(service: &ServiceDescriptor, extension: &ExtensionDescriptor) -> bool {
    service
        .methods()
        .any(|method| method.options().has_extension(extension))
}

fn is_external(package: &str) -> bool {
    matches!(package.split('.').next(), Some("grpc" | "google"))
}

fn method_policy(
    method: &MethodDescriptor,
    extension: &ExtensionDescriptor,
) -> Result<MethodPolicy, Vec<String>> {
    let options = method.options();
    let mut errors = Vec::new();
    let idempotency = idempotency(method).unwrap_or_else(|| {
        errors.push("no idempotency_level".to_owned());
        Idempotency::Unknown
    });
    if !options.has_extension(extension) {
        errors.push(format!("no ({EXTENSION})"));
        return Err(errors);
    }
    let declared = options.get_extension(extension);
    let declared = declared
        .as_message()
        .map(|message| message.transcode_to::<wire::MethodPolicy>());
    let Some(Ok(declared)) = declared else {
        errors.push(format!("({EXTENSION}) cannot be read"));
        return Err(errors);
    };
    let mut policy = from_descriptor(method, duration(declared.timeout.as_ref()));
    policy.idempotency = idempotency;
    policy.has_request_id = method.input().get_field_by_name("request_id").is_some();
    policy.retry = retry(&declared, extension, &mut errors);
    apply_options(&mut policy, &declared, &mut errors);
    validate(&policy, &mut errors);
    if errors.is_empty() {
        Ok(policy)
    } else {
        Err(errors)
    }
}

fn apply_options(policy: &mut MethodPolicy, declared: &wire::MethodPolicy, errors: &mut Vec<String>) {
    policy.criticality = match declared.criticality() {
        Criticality::Unspecified => Criticality::Normal,
        declared => declared,
    };
    policy.rate_limit_class = match declared.rate_limit_class() {
        RateLimitClass::Unspecified => RateLimitClass::Read,
        declared => declared,
    };
    policy.roles = declared.roles().collect();
    if policy.roles.len() != declared.roles.len() || policy.roles.contains(&Role::Unspecified) {
        errors.push("roles: contains a value that is not a role".to_owned());
    }
    policy.callers = declared.callers.clone();
    policy.audited = declared.audited;
    policy.anonymous = declared.anonymous;
    policy.max_streams = Some(declared.max_streams).filter(|streams| *streams > 0);
    policy.hedging = declared.hedging.as_ref().map(|hedging| Hedging {
        max_attempts: hedging.max_attempts,
        delay: duration(hedging.delay.as_ref()),
        non_fatal_codes: policy
            .retry
            .as_ref()
            .map(|retry| retry.retryable_codes.clone())
            .unwrap_or_default(),
    });
}

/// The method's own retries, or those of its class.
fn retry(
    declared: &wire::MethodPolicy,
    extension: &ExtensionDescriptor,
    errors: &mut Vec<String>,
) -> Option<Retry> {
    if let Some(own) = &declared.retry
        && own.retryable_codes().count() != own.retryable_codes.len()
    {
        errors.push("retry.retryable_codes: contains a value that is not a code".to_owned());
    }
    if declared.retry_class == 0 {
        return declared.retry.as_ref().map(Retry::from);
    }
    if declared.retry.is_some() {
        errors.push("retry: must be absent beside a retry_class".to_owned());
    }
    let of_class = retries_of_class(declared.retry_class, extension);
    if of_class.is_none() {
        errors.push("retry_class: the contract defines no retries for this value".to_owned());
    }
    of_class.as_ref().map(Retry::from)
}

/// The retries that the contract defines for a value of `RetryClass`; `None` if it defines none.
fn retries_of_class(class: i32, extension: &ExtensionDescriptor) -> Option<wire::RetryPolicy> {
    let field = extension.kind().as_message()?.get_field_by_name("retry_class")?;
    let options = field.kind().as_enum()?.get_value(class)?.options();
    let retries = extension.parent_pool().get_extension_by_name(RETRIES)?;
    if !options.has_extension(&retries) {
        return None;
    }
    options.get_extension(&retries).as_message()?.transcode_to().ok()
}

impl From<&wire::RetryPolicy> for Retry {
    fn from(declared: &wire::RetryPolicy) -> Self {
        Self {
            max_attempts: declared.max_attempts,
            initial_backoff: duration(declared.initial_backoff.as_ref()),
            max_backoff: duration(declared.max_backoff.as_ref()),
            backoff_multiplier: f64::from(declared.backoff_multiplier),
            // Without numbers that are not codes.
            retryable_codes: declared
                .retryable_codes()
                .map(|code| Code::from_i32(code.into()))
                .collect(),
            attempt_timeout: None,
        }
    }
}

/// Checks the rules for policies from any source.
pub(crate) fn validate(policy: &MethodPolicy, errors: &mut Vec<String>) {
    let mut rule = |holds: bool, error: &str| {
        if !holds {
            errors.push(error.to_owned());
        }
    };
    rule(!policy.timeout.is_zero(), "timeout: must be more than zero");
    if let Some(retry) = &policy.retry {
        rule(
            (2..=5).contains(&retry.max_attempts),
            "retry.max_attempts: must be 2 to 5",
        );
        rule(
            !retry.initial_backoff.is_zero(),
            "retry.initial_backoff: must be more than zero",
        );
        rule(
            retry.max_backoff >= retry.initial_backoff,
            "retry.max_backoff: must not be less than initial_backoff",
        );
        rule(
            retry.backoff_multiplier > 0.0,
            "retry.backoff_multiplier: must be more than zero",
        );
        rule(
            !retry.retryable_codes.is_empty(),
            "retry.retryable_codes: must not be empty",
        );
        rule(
            !retry.retryable_codes.contains(&Code::Ok),
            "retry.retryable_codes: must not hold OK",
        );
        rule(
            retry.attempt_timeout.is_none_or(|timeout| !timeout.is_zero()),
            "retry.attempt_timeout: must be more than zero",
        );
        rule(
            policy.repeatable(),
            "retry: needs an idempotency_level or a request_id in the request",
        );
        rule(
            !policy.client_streaming,
            "retry: a client stream is not buffered and cannot be sent again",
        );
    }
    if let Some(hedging) = &policy.hedging {
        rule(
            (2..=5).contains(&hedging.max_attempts),
            "hedging.max_attempts: must be 2 to 5",
        );
        rule(!hedging.delay.is_zero(), "hedging.delay: must be more than zero");
        rule(
            policy.idempotency == Idempotency::NoSideEffects,
            "hedging: needs NO_SIDE_EFFECTS",
        );
        rule(
            !policy.client_streaming && !policy.server_streaming,
            "hedging: for unary methods only",
        );
    }
}

/// A negative duration counts as zero, which [`validate`] then reports.
fn duration(declared: Option<&prost_types::Duration>) -> Duration {
    declared
        .and_then(|declared| Duration::try_from(*declared).ok())
        .unwrap_or_default()
}

//! Maps the descriptor set's extension options to [`MethodPolicy`], and collects all errors of the contract.
//!
//! Options are read by the names of their fields, so that any version of `mesh/v1/policy.proto` can be read.

use std::time::Duration;

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FileDescriptor, MethodDescriptor, ReflectMessage,
    ServiceDescriptor, Value,
};
use tonic::Code;

use super::{
    Criticality, Error, Hedging, Idempotency, MethodPolicy, Policies, RateLimitClass, Required, Retry,
    options::{Options, unsupported_options},
    rules::broken_rules,
};

const EXTENSION: &str = "mesh.v1.policy";
const OPTIONS_FILE: &str = "mesh/v1/policy.proto";
/// The option of a value of `mesh.v1.RetryClass` that holds the retries of the class.
const RETRIES: &str = "mesh.v1.retries";

pub(super) fn read(encoded: &[u8], required: Required) -> Result<Policies, Error> {
    let pool = DescriptorPool::decode(encoded).map_err(Error::Descriptors)?;
    let extension = pool.get_extension_by_name(EXTENSION);
    if extension.is_none() && required == Required::Yes {
        let error = format!("the descriptor set has no extension {EXTENSION}");
        return Err(Error::Contract(vec![error]));
    }
    let mut methods = Vec::new();
    let mut errors = Vec::new();
    let read = pool.services().filter(|service| {
        !is_external(service.package_name())
            || extension
                .as_ref()
                .is_some_and(|extension| has_policy(service, extension))
    });
    for method in read.flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        match method_policy(&method, extension.as_ref(), required) {
            Ok(policy) => methods.push((path, policy)),
            Err(found) => {
                let name = method.full_name().to_owned();
                errors.extend(found.into_iter().map(|error| format!("{name}: {error}")));
            }
        }
    }
    if errors.is_empty()
        && methods.iter().all(|(_, policy)| !policy.declared)
        && let Some(file) = pool.files().find(imports_options)
    {
        // Options are lost, for example, when descriptors are encoded again by types that do not know them.
        let file = file.name();
        errors.push(format!(
            "{file} imports {OPTIONS_FILE}, and no method has ({EXTENSION})"
        ));
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

/// Whether a file with services imports the options.
fn imports_options(file: &FileDescriptor) -> bool {
    file.services().next().is_some()
        && !is_external(file.package_name())
        && file
            .dependencies()
            .any(|imported| imported.name() == OPTIONS_FILE)
}

fn is_external(package: &str) -> bool {
    matches!(package.split('.').next(), Some("grpc" | "google"))
}

fn method_policy(
    method: &MethodDescriptor,
    extension: Option<&ExtensionDescriptor>,
    required: Required,
) -> Result<MethodPolicy, Vec<String>> {
    let options = method.options();
    let mut errors = Vec::new();
    let idempotency = idempotency(method);
    if idempotency.is_none() && required == Required::Yes {
        errors.push("no idempotency_level".to_owned());
    }
    let idempotency = idempotency.unwrap_or(Idempotency::Unknown);
    let Some(extension) = extension.filter(|extension| options.has_extension(extension)) else {
        if required == Required::Yes {
            errors.push(format!("no ({EXTENSION})"));
            return Err(errors);
        }
        return Ok(MethodPolicy {
            declared: false,
            idempotency,
            ..from_descriptor(method, Duration::MAX)
        });
    };
    let declared = options.get_extension(extension);
    let Some(declared) = declared.as_message() else {
        errors.push(format!("({EXTENSION}) is not a message"));
        return Err(errors);
    };
    errors.extend(unsupported_options(declared));
    let declared = Options(declared);
    let mut policy = from_descriptor(method, declared.duration("timeout").unwrap_or_default());
    policy.idempotency = idempotency;
    policy.has_request_id = method.input().get_field_by_name("request_id").is_some();
    policy.retry = retry(&declared, &mut errors);
    apply_options(&mut policy, &declared, &mut errors);
    errors.extend(broken_rules(&policy));
    if errors.is_empty() {
        Ok(policy)
    } else {
        Err(errors)
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

fn apply_options(policy: &mut MethodPolicy, declared: &Options<'_>, errors: &mut Vec<String>) {
    policy.criticality = match declared.number("criticality") {
        0 | 2 => Criticality::Normal,
        1 => Criticality::Sheddable,
        3 => Criticality::Critical,
        _ => {
            errors.push("criticality: is not a value of mesh.v1.Criticality".to_owned());
            Criticality::Normal
        }
    };
    policy.rate_limit_class = match declared.number("rate_limit_class") {
        0 | 1 => RateLimitClass::Read,
        2 => RateLimitClass::Write,
        3 => RateLimitClass::Bulk,
        4 => RateLimitClass::Admin,
        _ => {
            errors.push("rate_limit_class: is not a value of mesh.v1.RateLimitClass".to_owned());
            RateLimitClass::Read
        }
    };
    policy.roles = declared.texts("role_names");
    if policy.roles.iter().any(String::is_empty) {
        errors.push("role_names: must not hold an empty name".to_owned());
    }
    policy.callers = declared.texts("callers");
    policy.audited = declared.flag("audited");
    policy.anonymous = declared.flag("anonymous");
    policy.max_streams = Some(declared.count("max_streams")).filter(|streams| *streams > 0);
    policy.hedging = declared.message("hedging").map(|hedging| {
        let hedging = Options(&hedging);
        Hedging {
            max_attempts: hedging.count("max_attempts"),
            delay: hedging.duration("delay").unwrap_or_default(),
            non_fatal_codes: policy
                .retry
                .as_ref()
                .map(|retry| retry.retryable_codes.clone())
                .unwrap_or_default(),
        }
    });
}

/// The method's own retries, or those of its class.
fn retry(declared: &Options<'_>, errors: &mut Vec<String>) -> Option<Retry> {
    let own = declared
        .message("retry")
        .map(|own| retry_policy(&Options(&own), "retry.retryable_codes", errors));
    let class = declared.number("retry_class");
    if class == 0 {
        return own;
    }
    if own.is_some() {
        errors.push("retry: must be absent beside a retry_class".to_owned());
    }
    let Some(of_class) = retries_of_class(class, declared.0) else {
        errors.push("retry_class: the contract defines no retries for this value".to_owned());
        return None;
    };
    Some(retry_policy(
        &Options(&of_class),
        "retry_class.retryable_codes",
        errors,
    ))
}

fn retry_policy(declared: &Options<'_>, codes: &str, errors: &mut Vec<String>) -> Retry {
    let retryable_codes = declared.codes("retryable_codes").unwrap_or_else(|| {
        errors.push(format!("{codes}: contains a value that is not a code"));
        vec![Code::Unavailable]
    });
    Retry {
        max_attempts: declared.count("max_attempts"),
        initial_backoff: declared.duration("initial_backoff").unwrap_or_default(),
        max_backoff: declared.duration("max_backoff").unwrap_or_default(),
        backoff_multiplier: declared.decimal("backoff_multiplier"),
        retryable_codes,
        attempt_timeout: None,
    }
}

/// The retries that the contract defines for a value of `RetryClass`; `None` if it defines none.
fn retries_of_class(class: i32, policy: &DynamicMessage) -> Option<DynamicMessage> {
    let field = policy.descriptor().get_field_by_name("retry_class")?;
    let options = field.kind().as_enum()?.get_value(class)?.options();
    let retries = field.parent_pool().get_extension_by_name(RETRIES)?;
    if !options.has_extension(&retries) {
        return None;
    }
    options.get_extension(&retries).as_message().cloned()
}

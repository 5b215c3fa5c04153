//! The contract's descriptors at run time, and the validation of messages.

mod decode_error;
mod enums;
mod limits;
pub(crate) mod text;
mod well_known_types;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{LazyLock, OnceLock},
};

use prost::{Message, Name};
use prost_protovalidate::{Error, Validator, Violation};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind};
use tonic::Status;

pub(crate) use decode_error::decode_error;
pub(crate) use limits::grouped;

use crate::{Violations, status};

/// The descriptors of the process's contract; unset: Weft's own.
static SCHEMA: OnceLock<&'static [u8]> = OnceLock::new();

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(schema()).expect("the contract's build has encoded its own descriptors")
});

static VALIDATOR: LazyLock<Validator> = LazyLock::new(Validator::new);

/// The message of each CEL rule between fields, by the rule's id. The validator reports only the id of these
/// rules.
static CEL_MESSAGES: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let Some(rules) = POOL.get_extension_by_name("buf.validate.message") else {
        return HashMap::new();
    };
    let text = |rule: &DynamicMessage, name: &str| Some(rule.get_field_by_name(name)?.as_str()?.to_owned());
    POOL.all_messages()
        .filter_map(|message| message.options().get_extension(&rules).as_message().cloned())
        .filter_map(|rules| Some(rules.get_field_by_name("cel")?.as_list()?.to_vec()))
        .flatten()
        .filter_map(|rule| {
            Some((
                text(rule.as_message()?, "id")?,
                text(rule.as_message()?, "message")?,
            ))
        })
        .collect()
});

/// Sets the contract of the process, before anything reads it. The first one stays.
pub(crate) fn set_schema(schema: &'static [u8]) {
    let _ = SCHEMA.set(schema);
}

/// The encoded descriptors of the process's contract.
pub(crate) fn schema() -> &'static [u8] {
    SCHEMA.get().copied().unwrap_or(proto::SCHEMA)
}

/// The descriptors of every contract.
pub(crate) fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The names of the services: the first parts of their packages.
pub(crate) fn services() -> BTreeSet<String> {
    let package = |service: prost_reflect::ServiceDescriptor| service.package_name().to_owned();
    let first = |package: String| package.split('.').next().map(str::to_owned);
    POOL.services().map(package).filter_map(first).collect()
}

/// The violations of an encoded message: of its contract's rules, and of the limits that apply to every field. The
/// server validates every request by itself; this is for messages from elsewhere.
///
/// # Errors
/// When the contract has no message of this name, or the bytes cannot be decoded.
pub fn violations(name: &str, bytes: &[u8]) -> Result<Violations, String> {
    let descriptor = POOL.get_message_by_name(name);
    let descriptor = descriptor.ok_or_else(|| format!("{name} is not in the contract"))?;
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|error| error.to_string())?;
    collect_violations(message).map_err(|error| error.to_string())
}

/// Validates a request that is part of another one.
///
/// # Errors
/// INVALID_ARGUMENT `INVALID_REQUEST` with every violation.
pub(crate) fn check<M: Message + Name>(message: &M) -> Result<(), Status> {
    let unknown = || std::io::Error::other(format!("{} is not in the contract", M::full_name()));
    let descriptor = POOL.get_message_by_name(&M::full_name());
    let descriptor = descriptor.ok_or_else(|| status::internal(&unknown()))?;
    let decoded = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice());
    validate(decoded.map_err(|error| status::internal(&error))?)
}

/// Validates a request.
///
/// # Errors
/// INVALID_ARGUMENT `INVALID_REQUEST` with every violation.
pub(crate) fn validate(message: DynamicMessage) -> Result<(), Status> {
    let violations = collect_violations(message).map_err(|error| status::internal(&error))?;
    if violations.is_empty() {
        Ok(())
    } else {
        Err(status::invalid(&violations))
    }
}

fn collect_violations(mut message: DynamicMessage) -> Result<Violations, Error> {
    // First, because it bounds the cost of the rest.
    let faults = limits::check(&mut message);
    let broken = match VALIDATOR.validate(&message) {
        Ok(()) => None,
        Err(Error::Validation(broken)) => Some(broken),
        // A rule cannot be evaluated on a value that is not well-formed.
        Err(_) if !faults.is_empty() => None,
        Err(error) => return Err(error),
    };
    let mut violations = Violations::new();
    for violation in broken.iter().flat_map(|broken| broken.violations()) {
        violations.add(violation.field_path(), describe(violation));
    }
    // A field that breaks a rule of its own is reported with that rule only.
    let named: HashSet<String> = violations
        .iter()
        .map(|violation| violation.field.clone())
        .collect();
    for fault in faults.into_iter().filter(|fault| !named.contains(&fault.path)) {
        violations.add(fault.path, fault.description);
    }
    Ok(violations)
}

/// Describes what a broken rule requires.
fn describe(violation: &Violation) -> String {
    if violation.rule_id().starts_with("enum.")
        && let Some(Kind::Enum(values)) = violation.field_descriptor().map(FieldDescriptor::kind)
    {
        return enums::must_be(&values);
    }
    match (violation.message(), CEL_MESSAGES.get(violation.rule_id())) {
        ("", Some(said)) => said.clone(),
        ("", None) => describe_rule(violation.rule_id()),
        (said, _) => said.to_owned(),
    }
}

/// Violations of well-known formats carry an id only: `string.uuid`, `string.email_empty`.
fn describe_rule(rule: &str) -> String {
    let format = rule.split_once('.').map_or(rule, |(_, format)| format);
    if let Some(format) = format.strip_suffix("_empty") {
        return format!("must not be empty; it must be {}", describe_format(format));
    }
    match format {
        "required" => "must be set".to_owned(),
        format => format!("must be {}", describe_format(format)),
    }
}

fn describe_format(format: &str) -> String {
    match format {
        "uuid" => "a UUID, as in 6f1c9a4e-2d1b-4c55-9a65-0b1f6d1f8a11".to_owned(),
        "tuuid" => "a UUID without dashes".to_owned(),
        "email" => "an e-mail address".to_owned(),
        "hostname" => "a host name".to_owned(),
        "uri" => "an absolute URI".to_owned(),
        "uri_ref" => "a URI reference".to_owned(),
        "ip" => "an IP address".to_owned(),
        "ipv4" => "an IPv4 address".to_owned(),
        "ipv6" => "an IPv6 address".to_owned(),
        "address" => "a host name or an IP address".to_owned(),
        "host_and_port" => "a host and a port".to_owned(),
        other => format!("valid ({})", other.replace('_', " ")),
    }
}

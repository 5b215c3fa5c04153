//! The contract's descriptors at run time, and the rules that its messages must keep.

use std::{collections::HashMap, sync::LazyLock};

use prost::{Message, Name};
use prost_protovalidate::{Error, Validator};
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::Status;

use crate::{Violations, status};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(proto::SCHEMA).expect("the contract's build has encoded its own descriptors")
});

static VALIDATOR: LazyLock<Validator> = LazyLock::new(Validator::new);

/// What the contract says about each rule between the fields of a message, by the rule's id: the validator keeps only
/// the id of these.
static BETWEEN_FIELDS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
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

/// The descriptors of every contract.
pub(crate) fn pool() -> &'static DescriptorPool {
    &POOL
}

/// Checks a message against the rules that stand in its contract. The server does this for unary requests by itself;
/// handlers do it for each message of a stream.
///
/// # Errors
/// INVALID_ARGUMENT `INVALID_REQUEST` with every violation.
pub fn validate<M: Message + Name>(message: &M) -> Result<(), Status> {
    let name = M::full_name();
    let descriptor = POOL.get_message_by_name(&name).ok_or_else(|| {
        status::internal(&std::io::Error::other(format!(
            "{name} is not in the contract's descriptors"
        )))
    })?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice());
    validate_dynamic(&message.map_err(|error| status::internal(&error))?)
}

/// The same for a message that is known by its descriptor only.
pub(crate) fn validate_dynamic(message: &DynamicMessage) -> Result<(), Status> {
    let broken = match VALIDATOR.validate(message) {
        Ok(()) => return Ok(()),
        Err(Error::Validation(broken)) => broken,
        Err(error) => return Err(status::internal(&error)),
    };
    let mut violations = Violations::new();
    for violation in broken.violations() {
        let said = violation.message();
        let description = match (said, BETWEEN_FIELDS.get(violation.rule_id())) {
            ("", Some(said)) => said.clone(),
            ("", None) => words(violation.rule_id()),
            (said, _) => said.to_owned(),
        };
        violations.add(violation.field_path(), description);
    }
    Err(status::invalid(&violations))
}

/// Rules for well-known formats come with their id only: `string.uuid`, `string.email_empty`.
fn words(rule: &str) -> String {
    let format = rule.split_once('.').map_or(rule, |(_, format)| format);
    if let Some(format) = format.strip_suffix("_empty") {
        return format!("must not be empty; it must be {}", named(format));
    }
    match format {
        "required" => "must be set".to_owned(),
        format => format!("must be {}", named(format)),
    }
}

fn named(format: &str) -> String {
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

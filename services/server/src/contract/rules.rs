//! The `buf.validate` rules of a contract.

use std::collections::HashMap;

pub(super) use prost_protovalidate::Error;
use prost_protovalidate::{Validator, Violation};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind};

use super::enums;
use crate::Violations;

/// Checks messages by their rules.
pub(super) struct Rules {
    validator: Validator,
    /// The message of each CEL rule between fields, by the rule's id. The validator reports only the id of these
    /// rules.
    cel_messages: HashMap<String, String>,
}

impl Rules {
    pub(super) fn new(pool: &DescriptorPool) -> Rules {
        Rules {
            validator: Validator::new(),
            cel_messages: cel_messages(pool),
        }
    }

    /// The broken rules.
    ///
    /// # Errors
    /// When a rule cannot be evaluated.
    pub(super) fn check(&self, message: &DynamicMessage) -> Result<Violations, Error> {
        let mut violations = Violations::new();
        match self.validator.validate(message) {
            Ok(()) => {}
            Err(Error::Validation(broken)) => {
                for violation in broken.violations() {
                    violations.add(violation.field_path(), self.describe(violation));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(violations)
    }

    /// Describes what a broken rule requires.
    fn describe(&self, violation: &Violation) -> String {
        if violation.rule_id().starts_with("enum.")
            && let Some(Kind::Enum(values)) = violation.field_descriptor().map(FieldDescriptor::kind)
        {
            return enums::must_be(&values);
        }
        match (violation.message(), self.cel_messages.get(violation.rule_id())) {
            ("", Some(said)) => said.clone(),
            ("", None) => describe_rule(violation.rule_id()),
            (said, _) => said.to_owned(),
        }
    }
}

/// The message of each CEL rule between fields, by the rule's id. The validator reports only the id of these
/// rules.
fn cel_messages(pool: &DescriptorPool) -> HashMap<String, String> {
    let Some(rules) = pool.get_extension_by_name("buf.validate.message") else {
        return HashMap::new();
    };
    let text = |rule: &DynamicMessage, name: &str| Some(rule.get_field_by_name(name)?.as_str()?.to_owned());
    pool.all_messages()
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

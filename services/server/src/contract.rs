//! The contract's descriptors at run time, and the validation of messages.

mod comments;
mod decode_error;
mod enums;
mod limits;
pub(crate) mod text;
mod well_known_types;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use prost::{Message, Name};
use prost_protovalidate::{Error, Validator, Violation};
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, FieldDescriptor, Kind};
use tonic::Status;

pub(crate) use comments::without_comments;
pub(crate) use decode_error::decode_error;
use limits::FieldLimits;
pub(crate) use limits::grouped;

use crate::{Violations, status};

/// The descriptors of a contract, and the validation of its messages by their `buf.validate` rules. Cheap to clone.
#[derive(Clone)]
pub struct Contract {
    inner: Arc<Inner>,
    /// Of every field; `None` when only the fields' own rules apply.
    limits: Option<Arc<FieldLimits>>,
}

struct Inner {
    pool: DescriptorPool,
    /// The descriptors as they were given, with their comments, for reflection.
    encoded: Cow<'static, [u8]>,
    validator: Validator,
    cel_messages: HashMap<String, String>,
}

impl Contract {
    /// Reads an encoded `FileDescriptorSet` that includes its imports and, for validation, its extension options.
    /// Comments in it are shown by reflection, and do not stay in memory otherwise.
    ///
    /// # Errors
    /// When it cannot be decoded, or an import is missing.
    pub fn new(encoded: impl Into<Cow<'static, [u8]>>) -> Result<Contract, DescriptorError> {
        let encoded = encoded.into();
        let pool = match comments::set_without_comments(&encoded) {
            Some(stripped) => DescriptorPool::decode(stripped.as_slice())?,
            // Malformed: the error says how.
            None => DescriptorPool::decode(&*encoded)?,
        };
        let inner = Inner {
            cel_messages: cel_messages(&pool),
            validator: Validator::new(),
            pool,
            encoded,
        };
        Ok(Contract {
            inner: Arc::new(inner),
            limits: None,
        })
    }

    /// Also limits every field of every message that has no rule of its own: a text to one line of 1,000
    /// characters without control characters, bytes to 64 KiB, a list or map to 1,000 items, numbers to finite
    /// ones and to the range of a signed 64-bit number, enums to defined values, and the types of
    /// `google.protobuf` and `google.type` to valid values.
    #[must_use]
    pub fn limit_fields(mut self) -> Contract {
        self.limits = Some(Arc::new(FieldLimits::new(&self.inner.pool)));
        self
    }

    /// The violations of an encoded message: of its contract's rules, and of the limits that apply to every field.
    /// The server validates every request by itself; this is for messages from elsewhere.
    ///
    /// # Errors
    /// When the contract has no message of this name, or the bytes cannot be decoded.
    pub fn violations(&self, name: &str, bytes: &[u8]) -> Result<Violations, String> {
        let descriptor = self.inner.pool.get_message_by_name(name);
        let descriptor = descriptor.ok_or_else(|| format!("{name} is not in the contract"))?;
        let message = DynamicMessage::decode(descriptor, bytes).map_err(|error| error.to_string())?;
        self.collect_violations(message)
            .map_err(|error| error.to_string())
    }

    /// Validates a request that is part of another one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT `INVALID_REQUEST` with every violation.
    pub fn check<M: Message + Name>(&self, message: &M) -> Result<(), Status> {
        let unknown = || std::io::Error::other(format!("{} is not in the contract", M::full_name()));
        let descriptor = self.inner.pool.get_message_by_name(&M::full_name());
        let descriptor = descriptor.ok_or_else(|| status::internal(&unknown()))?;
        let decoded = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice());
        self.validate(decoded.map_err(|error| status::internal(&error))?)
    }

    /// Validates a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT `INVALID_REQUEST` with every violation.
    pub(crate) fn validate(&self, message: DynamicMessage) -> Result<(), Status> {
        let violations = self
            .collect_violations(message)
            .map_err(|error| status::internal(&error))?;
        if violations.is_empty() {
            Ok(())
        } else {
            Err(status::invalid(&violations))
        }
    }

    /// The descriptors of the whole contract.
    pub(crate) fn pool(&self) -> &DescriptorPool {
        &self.inner.pool
    }

    /// The descriptors with their comments.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.inner.encoded
    }

    /// The names of the services: the first parts of their packages.
    pub(crate) fn service_names(&self) -> BTreeSet<String> {
        let package = |service: prost_reflect::ServiceDescriptor| service.package_name().to_owned();
        let first = |package: String| package.split('.').next().map(str::to_owned);
        self.pool().services().map(package).filter_map(first).collect()
    }

    fn collect_violations(&self, mut message: DynamicMessage) -> Result<Violations, Error> {
        // First, because it bounds the cost of the rest.
        let faults = match &self.limits {
            Some(limits) => limits.check(&mut message),
            None => Vec::new(),
        };
        let broken = match self.inner.validator.validate(&message) {
            Ok(()) => None,
            Err(Error::Validation(broken)) => Some(broken),
            // A rule cannot be evaluated on a value that is not well-formed.
            Err(_) if !faults.is_empty() => None,
            Err(error) => return Err(error),
        };
        let mut violations = Violations::new();
        for violation in broken.iter().flat_map(|broken| broken.violations()) {
            violations.add(violation.field_path(), self.describe(violation));
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
    fn describe(&self, violation: &Violation) -> String {
        if violation.rule_id().starts_with("enum.")
            && let Some(Kind::Enum(values)) = violation.field_descriptor().map(FieldDescriptor::kind)
        {
            return enums::must_be(&values);
        }
        match (
            violation.message(),
            self.inner.cel_messages.get(violation.rule_id()),
        ) {
            ("", Some(said)) => said.clone(),
            ("", None) => describe_rule(violation.rule_id()),
            (said, _) => said.to_owned(),
        }
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract")
            .field("services", &self.inner.pool.services().len())
            .field("limits", &self.limits.is_some())
            .finish_non_exhaustive()
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

#[cfg(test)]
pub(crate) mod tests;

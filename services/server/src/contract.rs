//! The contract's descriptors at run time, and the validation of messages.

mod comments;
mod decode_error;
mod enums;
mod limits;
#[cfg_attr(not(feature = "validation"), path = "contract/no_rules.rs")]
mod rules;
pub(crate) mod text;
mod well_known_types;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

use prost::{Message, Name};
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, ExtensionDescriptor};
use tonic::Status;

pub(crate) use comments::without_comments;
pub(crate) use decode_error::decode_error;
use limits::FieldLimits;
pub(crate) use limits::grouped;
use rules::Rules;

use crate::{Violations, status};

/// The descriptors of a contract, and the validation of its messages: by their `buf.validate` rules, which needs the
/// feature `validation`, and by [limits](Contract::limit_fields) of all fields. Cheap to clone.
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
    rules: Rules,
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
            rules: Rules::new(&pool),
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

    /// Whether any message or field has `buf.validate` rules.
    pub(crate) fn has_rules(&self) -> bool {
        let pool = &self.inner.pool;
        let [message, field, oneof] = ["message", "field", "oneof"]
            .map(|name| pool.get_extension_by_name(&format!("buf.validate.{name}")));
        let set = |options: &DynamicMessage, rules: &Option<ExtensionDescriptor>| {
            rules.as_ref().is_some_and(|rules| options.has_extension(rules))
        };
        pool.all_messages().any(|descriptor| {
            set(&descriptor.options(), &message)
                || descriptor.fields().any(|one| set(&one.options(), &field))
                || descriptor.oneofs().any(|one| set(&one.options(), &oneof))
        })
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

    fn collect_violations(&self, mut message: DynamicMessage) -> Result<Violations, rules::Error> {
        // First, because it bounds the cost of the rest.
        let faults = match &self.limits {
            Some(limits) => limits.check(&mut message),
            None => Vec::new(),
        };
        let broken = match self.inner.rules.check(&message) {
            Ok(broken) => broken,
            // A rule cannot be evaluated on a value that is not well-formed.
            Err(_) if !faults.is_empty() => Violations::new(),
            Err(error) => return Err(error),
        };
        // A field that breaks a rule of its own is reported with that rule only.
        let named: HashSet<String> = broken.iter().map(|violation| violation.field.clone()).collect();
        let mut violations = broken;
        for fault in faults.into_iter().filter(|fault| !named.contains(&fault.path)) {
            violations.add(fault.path, fault.description);
        }
        Ok(violations)
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

#[cfg(test)]
pub(crate) mod tests;

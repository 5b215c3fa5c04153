//! Limits that apply to every field of every message, in addition to the field's own rules in the contract.

use std::collections::HashMap;

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value,
};

use super::{
    enums,
    text::{self, Lines},
    well_known_types,
};

/// Longest string without a rule of its own, in characters of up to four bytes.
const MAX_CHARS: usize = 1_000;
/// Longest `bytes` without a rule of its own.
const MAX_BYTES: usize = 64 * 1024;
/// Longest list or map without a rule of its own.
const MAX_ITEMS: usize = 1_000;
/// Violations reported for one message.
const MAX_VIOLATIONS: usize = 200;

/// A field and what it must be.
pub(super) struct FieldViolation {
    pub(super) path: String,
    pub(super) description: String,
}

/// The limits of each field, by full name.
pub(super) struct FieldLimits(HashMap<String, Limits>);

impl FieldLimits {
    pub(super) fn new(pool: &DescriptorPool) -> FieldLimits {
        let fields = pool
            .all_messages()
            .flat_map(|message| message.fields().collect::<Vec<_>>());
        let limits = fields.map(|field| (field.full_name().to_owned(), Limits::from_field(&field)));
        FieldLimits(limits.collect())
    }

    /// Truncates lists that are too long to one item more than their limit: this bounds the cost of validation, and
    /// the rule about their length still fails. Other violations are reported in the order of the fields.
    pub(super) fn check(&self, message: &mut DynamicMessage) -> Vec<FieldViolation> {
        let mut checker = Checker {
            fields: self,
            violations: Vec::new(),
        };
        checker.message(message, &mut String::new());
        checker.violations
    }
}

#[derive(Clone, Copy)]
struct Limits {
    lines: Lines,
    max_chars: usize,
    max_bytes: usize,
    max_items: usize,
    max_encoded_bytes: usize,
    /// The items are requests that are validated one by one.
    skips_items: bool,
}

/// `IGNORE_ALWAYS` of protovalidate.
const IGNORE_ALWAYS: i32 = 3;

impl Limits {
    const DEFAULT: Limits = Limits {
        lines: Lines::One,
        max_chars: MAX_CHARS,
        max_bytes: MAX_BYTES,
        max_items: MAX_ITEMS,
        max_encoded_bytes: usize::MAX,
        skips_items: false,
    };

    /// A rule of the field's own replaces the default limit; the validator checks it.
    fn from_field(field: &FieldDescriptor) -> Limits {
        let own = |path: &[&str]| rule(field, path);
        let is_bounded = |kind: &str, rules: &[&str]| {
            rules.iter().any(|name| {
                own(&[kind, name])
                    .or_else(|| own(&["repeated", "items", kind, name]))
                    .is_some()
            })
        };
        let unless = |bounded: bool, limit: usize| if bounded { usize::MAX } else { limit };
        let max_items = own(&["repeated", "max_items"]).or_else(|| own(&["map", "max_pairs"]));
        Limits {
            lines: match option(field, "mesh.v1.multiline").and_then(|several| several.as_bool()) {
                Some(true) => Lines::Several,
                _ => Lines::One,
            },
            max_chars: unless(
                is_bounded("string", &["max_len", "len", "max_bytes", "len_bytes"]),
                MAX_CHARS,
            ),
            max_bytes: unless(is_bounded("bytes", &["max_len", "len"]), MAX_BYTES),
            max_items: max_items
                .and_then(|items| usize::try_from(items.as_u64()?).ok())
                .unwrap_or(MAX_ITEMS),
            max_encoded_bytes: option(field, "mesh.v1.max_encoded_bytes")
                .and_then(|bytes| usize::try_from(bytes.as_u32()?).ok())
                .unwrap_or(usize::MAX),
            skips_items: own(&["repeated", "items", "ignore"])
                .is_some_and(|ignore| ignore.as_enum_number() == Some(IGNORE_ALWAYS)),
        }
    }
}

/// An option of the field.
fn option(field: &FieldDescriptor, name: &str) -> Option<Value> {
    let extension = field.parent_pool().get_extension_by_name(name)?;
    let options = field.options();
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).into_owned())
}

/// A value in the field's rules, if set.
pub(super) fn rule(field: &FieldDescriptor, path: &[&str]) -> Option<Value> {
    let mut value = option(field, "buf.validate.field")?;
    for name in path {
        let message = value.as_message()?;
        let next = message.descriptor().get_field_by_name(name)?;
        if !message.has_field(&next) {
            return None;
        }
        value = message.get_field(&next).into_owned();
    }
    Some(value)
}

struct Checker<'a> {
    fields: &'a FieldLimits,
    violations: Vec<FieldViolation>,
}

impl Checker<'_> {
    fn add(&mut self, path: &str, description: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(FieldViolation {
                path: path.to_owned(),
                description: description.into(),
            });
        }
    }

    fn message(&mut self, message: &mut DynamicMessage, path: &mut String) {
        match well_known_types::check(message) {
            Some(Ok(())) => return,
            Some(Err(fault)) => return self.add(path, fault),
            None => {}
        }
        if message.descriptor().full_name() == "google.protobuf.Any" {
            self.any(message, path);
        }
        let length = path.len();
        for (field, value) in message.fields_mut() {
            let limits = self.fields.0.get(field.full_name()).copied();
            let limits = limits.unwrap_or(Limits::DEFAULT);
            if length > 0 {
                path.push('.');
            }
            path.push_str(field.name());
            self.field(&field, value, limits, path);
            path.truncate(length);
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &mut Value, limits: Limits, path: &mut String) {
        let kind = field.kind();
        let length = path.len();
        match value {
            Value::List(items) => {
                if items.len() > limits.max_items {
                    self.add(
                        path,
                        format!("must have at most {} items", grouped(limits.max_items)),
                    );
                    items.truncate(limits.max_items + 1);
                }
                if limits.skips_items {
                    return;
                }
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    self.value(&kind, item, limits, path);
                    path.truncate(length);
                }
            }
            Value::Map(pairs) => {
                if pairs.len() > limits.max_items {
                    self.add(
                        path,
                        format!("must have at most {} entries", grouped(limits.max_items)),
                    );
                }
                let kind = field.kind();
                let of_value = kind
                    .as_message()
                    .map(|entry| entry.map_entry_value_field().kind());
                for (key, item) in pairs.iter_mut().take(limits.max_items + 1) {
                    path.push_str(&format!("[{}]", shown_key(key)));
                    if let MapKey::String(key) = key {
                        self.text(key, limits, path);
                    }
                    self.value(of_value.as_ref().unwrap_or(&kind), item, limits, path);
                    path.truncate(length);
                }
            }
            single => self.value(&kind, single, limits, path),
        }
    }

    fn value(&mut self, kind: &Kind, value: &mut Value, limits: Limits, path: &mut String) {
        match value {
            Value::String(text) => self.text(text, limits, path),
            Value::Bytes(bytes) if bytes.len() > limits.max_bytes => {
                self.add(
                    path,
                    format!("must be at most {} bytes", grouped(limits.max_bytes)),
                );
            }
            Value::F32(number) if !number.is_finite() => self.add(path, "must be a finite number"),
            Value::F64(number) if !number.is_finite() => self.add(path, "must be a finite number"),
            // The range of PostgreSQL's bigint.
            Value::U64(number) if i64::try_from(*number).is_err() => {
                self.add(path, "must be at most 9,223,372,036,854,775,807");
            }
            Value::EnumNumber(number) => {
                let values = kind.as_enum();
                if let Some(values) = values.filter(|values| values.get_value(*number).is_none()) {
                    self.add(path, enums::must_be(values));
                }
            }
            Value::Message(inner) => {
                if limits.max_encoded_bytes < usize::MAX && inner.encoded_len() > limits.max_encoded_bytes {
                    let most = grouped(limits.max_encoded_bytes);
                    self.add(path, format!("must be at most {most} bytes, encoded"));
                }
                self.message(inner, path);
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str, limits: Limits, path: &str) {
        if text.len() > limits.max_chars && text.chars().nth(limits.max_chars).is_some() {
            self.add(
                path,
                format!("must be at most {} characters", grouped(limits.max_chars)),
            );
        }
        if let Some(violation) = text::violation(text, limits.lines) {
            self.add(path, violation);
        }
    }

    /// The message in an Any is checked by the same limits, if its type is in the contract.
    fn any(&mut self, any: &DynamicMessage, path: &mut String) {
        let type_url = any.get_field_by_name("type_url");
        let value = any.get_field_by_name("value");
        let (Some(type_url), Some(value)) = (type_url, value) else {
            return;
        };
        let descriptor = any.descriptor();
        let pool = descriptor.parent_pool();
        let name = type_url
            .as_str()
            .unwrap_or_default()
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let (Some(inner), Some(bytes)) = (pool.get_message_by_name(name), value.as_bytes()) else {
            return;
        };
        match DynamicMessage::decode(inner, bytes.clone()) {
            Ok(mut inner) => self.message(&mut inner, path),
            Err(_) => self.add(path, "must hold a message of its type"),
        }
    }
}

fn shown_key(key: &MapKey) -> String {
    match key {
        MapKey::String(key) => format!("{:?}", text::sanitized(key, 50)),
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
    }
}

/// Formats 65536 as 65,536.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

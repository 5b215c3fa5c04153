//! The options of a method, as its contract declares them.

use std::{borrow::Cow, time::Duration};

use prost_reflect::{DynamicMessage, FieldDescriptor, Value};
use tonic::Code;

/// The fields of `mesh.v1.MethodPolicy`, and whether a value has the type that is read.
const OPTIONS: [(&str, HasType); 11] = [
    ("timeout", is_message),
    ("retry", is_message),
    ("retry_class", is_enum),
    ("hedging", is_message),
    ("criticality", is_enum),
    ("role_names", is_texts),
    ("callers", is_texts),
    ("rate_limit_class", is_enum),
    ("audited", |value| value.as_bool().is_some()),
    ("anonymous", |value| value.as_bool().is_some()),
    ("max_streams", |value| value.as_u32().is_some()),
];

type HasType = fn(&Value) -> bool;

fn is_message(value: &Value) -> bool {
    value
        .as_message()
        .is_some_and(|message| message.unknown_fields().next().is_none())
}

fn is_enum(value: &Value) -> bool {
    value.as_enum_number().is_some()
}

fn is_texts(value: &Value) -> bool {
    let texts = |list: &[Value]| list.iter().all(|value| value.as_str().is_some());
    value.as_list().is_some_and(texts)
}

/// Options that are set and cannot be read: ignoring them could open a method to more callers.
pub(super) fn unsupported_options(declared: &DynamicMessage) -> Vec<String> {
    let unsupported = |(field, value): (FieldDescriptor, &Value)| {
        let name = field.name();
        match OPTIONS.iter().find(|(known, _)| *known == name) {
            Some((_, has_type)) if has_type(value) => None,
            Some(_) => Some(format!(
                "{name}: has another type than in Weft's mesh/v1/policy.proto"
            )),
            None if name == "roles" => Some("roles: is replaced by role_names".to_owned()),
            None => Some(format!("{name}: is not supported")),
        }
    };
    let mut errors: Vec<_> = declared.fields().filter_map(unsupported).collect();
    if let Some(field) = declared.unknown_fields().next() {
        let number = field.number();
        errors.push(format!(
            "the field {number} is not in the contract's own mesh/v1/policy.proto"
        ));
    }
    errors
}

/// The fields of a message of options, by name. A field that the contract's version of the message does not have,
/// or has with another type, reads as not set.
pub(super) struct Options<'a>(pub(super) &'a DynamicMessage);

impl Options<'_> {
    fn get(&self, field: &str) -> Option<Cow<'_, Value>> {
        self.0.get_field_by_name(field)
    }

    pub(super) fn message(&self, field: &str) -> Option<DynamicMessage> {
        if !self.0.has_field_by_name(field) {
            return None;
        }
        self.get(field)?.as_message().cloned()
    }

    pub(super) fn number(&self, field: &str) -> i32 {
        self.get(field)
            .and_then(|value| value.as_enum_number())
            .unwrap_or_default()
    }

    pub(super) fn count(&self, field: &str) -> u32 {
        self.get(field)
            .and_then(|value| value.as_u32())
            .unwrap_or_default()
    }

    pub(super) fn decimal(&self, field: &str) -> f64 {
        self.get(field)
            .and_then(|value| value.as_f32())
            .map_or(0.0, f64::from)
    }

    pub(super) fn flag(&self, field: &str) -> bool {
        self.get(field)
            .and_then(|value| value.as_bool())
            .unwrap_or_default()
    }

    pub(super) fn texts(&self, field: &str) -> Vec<String> {
        let value = self.get(field);
        let list = value.as_deref().and_then(Value::as_list).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// `None` if a number is not a status code.
    pub(super) fn codes(&self, field: &str) -> Option<Vec<Code>> {
        let value = self.get(field);
        let list = value.as_deref().and_then(Value::as_list).unwrap_or_default();
        let code = |value: &Value| {
            let number = value.as_enum_number()?;
            (0..=16).contains(&number).then(|| Code::from_i32(number))
        };
        list.iter().map(code).collect()
    }

    /// A negative or unreadable duration counts as zero, which [`MethodPolicy::errors`](crate::MethodPolicy::errors) then reports.
    pub(super) fn duration(&self, field: &str) -> Option<Duration> {
        if !self.0.has_field_by_name(field) {
            return None;
        }
        let value = self.get(field)?;
        let declared: prost_types::Duration = value.as_message()?.transcode_to().ok()?;
        Duration::try_from(declared).ok()
    }
}

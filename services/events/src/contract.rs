//! The messages that the contract declares as events.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

/// The values of the option `(events.v1.event)` of a message.
pub(crate) struct Declaration {
    pub(crate) subject: String,
    pub(crate) aggregate: String,
}

struct Contract {
    pool: DescriptorPool,
    declarations: HashMap<String, Declaration>,
}

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(proto::SCHEMA).expect("the build wrote a valid descriptor set");
    let declarations = declarations(&pool);
    Contract { pool, declarations }
});

/// Finds the declaration of a message by its full name. `None`: it is not an event.
pub(crate) fn declaration(type_name: &str) -> Option<&'static Declaration> {
    CONTRACT.declarations.get(type_name)
}

/// The type that a message names, or, when the contract has no such type, the type declared for its subject.
pub(crate) fn type_name<'a>(named: &'a str, subject: &str) -> &'a str {
    if CONTRACT.pool.get_message_by_name(named).is_some() {
        return named;
    }
    let mut declared = CONTRACT.declarations.iter();
    let found = declared.find(|(_, declaration)| declaration.subject == subject);
    found.map_or(named, |(name, _)| name)
}

/// Decodes a body to Protobuf's JSON. The error says why the body is not a `type_name`.
pub(crate) fn to_json(type_name: &str, body: &[u8]) -> Result<String, String> {
    let message = decode(type_name, body)?;
    serde_json::to_string(&message).map_err(|error| error.to_string())
}

/// Encodes Protobuf's JSON to a body. The error says why it is not a complete and valid `type_name`. Unknown
/// fields are refused, since a misspelt field would otherwise be lost.
pub(crate) fn from_json(type_name: &str, json: &str) -> Result<Vec<u8>, String> {
    let Some(descriptor) = CONTRACT.pool.get_message_by_name(type_name) else {
        return Err(format!("this build does not know {type_name}"));
    };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let message = DynamicMessage::deserialize(descriptor, &mut deserializer);
    let message = message.and_then(|message| deserializer.end().map(|()| message));
    let message = message.map_err(|error| format!("not a {type_name}: {error}"))?;
    let body = message.encode_to_vec();
    match chassis::violations(type_name, &body)? {
        violations if violations.is_empty() => Ok(body),
        violations => Err(violations.to_string()),
    }
}

fn decode(type_name: &str, body: &[u8]) -> Result<DynamicMessage, String> {
    let Some(descriptor) = CONTRACT.pool.get_message_by_name(type_name) else {
        return Err(format!("this build does not know {type_name}"));
    };
    DynamicMessage::decode(descriptor, body).map_err(|error| error.to_string())
}

fn declarations(pool: &DescriptorPool) -> HashMap<String, Declaration> {
    let Some(extension) = pool.get_extension_by_name("events.v1.event") else {
        return HashMap::new();
    };
    let declared = |message: prost_reflect::MessageDescriptor| {
        let options = message.options();
        if !options.has_extension(&extension) {
            return None;
        }
        let value = options.get_extension(&extension);
        let option = value.as_message()?;
        let text = |name| match option.get_field_by_name(name).as_deref() {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        let declaration = Declaration {
            subject: text("subject"),
            aggregate: text("aggregate"),
        };
        Some((message.full_name().to_owned(), declaration))
    };
    pool.all_messages().filter_map(declared).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_event_has_a_subject_below_evt_and_an_aggregate() {
        assert!(!CONTRACT.declarations.is_empty());
        for (name, declaration) in &CONTRACT.declarations {
            assert!(
                declaration.subject.starts_with("evt."),
                "{name}: {}",
                declaration.subject
            );
            assert!(!declaration.aggregate.is_empty(), "{name}");
        }
    }
}

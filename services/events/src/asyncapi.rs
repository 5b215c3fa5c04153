//! The published events as an AsyncAPI 3.0 document, made from the contract, for readers outside of Weft.

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
};
use serde_json::{Map, Value, json};

use crate::{Error, contract};

/// Builds the document. `descriptors` is an encoded `FileDescriptorSet` with comments.
///
/// # Errors
/// When the descriptors cannot be decoded.
pub fn asyncapi(descriptors: &[u8]) -> Result<Value, Error> {
    let pool = DescriptorPool::decode(descriptors).map_err(|error| Error::Envelope(error.to_string()))?;
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for message in pool.all_messages() {
        let Some(declaration) = contract::declaration(message.full_name()) else {
            continue;
        };
        let (name, subject) = (message.full_name(), &declaration.subject);
        let channel = json!({
            "address": subject,
            "description": format!("Events in order within one {}.", declaration.aggregate),
            "messages": {message.name(): {"$ref": format!("#/components/messages/{name}")}},
        });
        let operation = json!({
            "action": "send",
            "channel": {"$ref": format!("#/channels/{subject}")},
            "messages": [{"$ref": format!("#/channels/{subject}/messages/{}", message.name())}],
        });
        channels.insert(subject.clone(), channel);
        operations.insert(format!("publish.{name}"), operation);
        messages.insert(name.to_owned(), message_object(&message));
    }
    Ok(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Weft events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What happens in Weft, on the JetStream stream EVENTS: CloudEvents 1.0 in NATS binary mode with \
                Protobuf bodies. An event may be delivered more than once: ce-id tells. docs/events.md shows a reader.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/protobuf",
        "servers": {"nats": {"host": "nats:4222", "protocol": "nats", "description": "JetStream 2.12 or newer"}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": {"headers": headers()}},
    }))
}

fn message_object(message: &MessageDescriptor) -> Value {
    json!({
        "name": message.full_name(),
        "title": message.name(),
        "summary": comment(&message.parent_file(), message.path()),
        "contentType": "application/protobuf",
        "headers": {"$ref": "#/components/schemas/headers"},
        "payload": {
            "schemaFormat": "application/vnd.google.protobuf;version=3",
            "schema": schema_text(message),
        },
    })
}

/// The headers of the envelope, as the relay sends them.
fn headers() -> Value {
    let texts = [
        ("ce-specversion", "Always 1.0."),
        ("ce-id", "The event, a UUID: the same in every delivery."),
        ("ce-type", "The full name of the body's message."),
        ("ce-source", "The service, `/weft/order`."),
        ("ce-time", "When it happened, RFC 3339."),
        ("ce-subject", "The aggregate, a UUID."),
        ("ce-datacontenttype", "Always application/protobuf."),
        (
            "ce-partitionkey",
            "The aggregate again: events that share it come in order.",
        ),
        (
            "ce-sequence",
            "The aggregate's version, counted up by one or more.",
        ),
        (
            "ce-correlationid",
            "The saga, or the event that this one follows from, or itself.",
        ),
        (
            "ce-causationid",
            "The event that this one follows from. Absent when there is none.",
        ),
        (
            "ce-sagaid",
            "The saga that it belongs to. Absent when there is none.",
        ),
        ("ce-aggregate", "The kind of aggregate."),
        ("ce-facility", "Whose it is."),
        ("traceparent", "W3C trace context. Absent when there is none."),
        (
            "Nats-Msg-Id",
            "What the broker recognises a repeated publication by.",
        ),
    ];
    let properties: Map<String, Value> = texts
        .iter()
        .map(|(name, about)| {
            (
                (*name).to_owned(),
                json!({"type": "string", "description": about}),
            )
        })
        .collect();
    let optional = ["ce-causationid", "ce-sagaid", "traceparent"];
    let required: Vec<&str> = texts
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !optional.contains(name))
        .collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// The message in Protobuf's language, followed by the messages and enums of its fields.
fn schema_text(message: &MessageDescriptor) -> String {
    let mut text = String::from("syntax = \"proto3\";\n");
    let (mut waiting, mut seen) = (vec![Kind::Message(message.clone())], Vec::new());
    while let Some(kind) = waiting.pop() {
        let name = kind_name(&kind);
        if seen.contains(&name) {
            continue;
        }
        text.push('\n');
        match &kind {
            Kind::Message(message) => {
                text.push_str(&message_text(message));
                let parts = message.fields().map(|field| field.kind());
                waiting.extend(parts.filter(|kind| matches!(kind, Kind::Message(_) | Kind::Enum(_))));
            }
            Kind::Enum(values) => text.push_str(&enum_text(values)),
            _ => {}
        }
        seen.push(name);
    }
    text
}

fn message_text(message: &MessageDescriptor) -> String {
    let file = message.parent_file();
    let fields: String = message
        .fields()
        .map(|field| {
            let label = match field.cardinality() {
                Cardinality::Repeated => "repeated ",
                _ if field.field_descriptor_proto().proto3_optional() => "optional ",
                _ => "",
            };
            let about = comment_lines(&comment(&file, field.path()), "  ");
            format!(
                "{about}  {label}{} {} = {};\n",
                field_type(&field),
                field.name(),
                field.number()
            )
        })
        .collect();
    let about = comment_lines(&comment(&file, message.path()), "");
    format!(
        "// {}\n{about}message {} {{\n{fields}}}\n",
        message.full_name(),
        message.name()
    )
}

fn enum_text(values: &EnumDescriptor) -> String {
    let lines: String = values
        .values()
        .map(|value| format!("  {} = {};\n", value.name(), value.number()))
        .collect();
    format!(
        "// {}\nenum {} {{\n{lines}}}\n",
        values.full_name(),
        values.name()
    )
}

fn field_type(field: &FieldDescriptor) -> String {
    kind_name(&field.kind())
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(values) => values.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn comment_lines(about: &str, indent: &str) -> String {
    about.lines().map(|line| format!("{indent}// {line}\n")).collect()
}

/// The leading comment of the element at this path of a file.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|location| location.path == path));
    let text = location
        .map(|location| location.leading_comments())
        .unwrap_or_default();
    text.lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n")
        .trim()
        .to_owned()
}

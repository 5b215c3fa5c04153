//! The services enforce every rule of the contract: one invalid request for each, generated from the descriptors.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ReflectMessage as _, Value,
};
use tests::{Service, Stack, raw_codec::Raw};
use tonic::{Code, Request, Status, client::Grpc};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// How deep requests nest: a line's observation in an activity of a claim of an order.
const DEPTH: usize = 5;

/// Rows of every table except the audit trail, which records refusals, and the event backbone's own state.
const ROWS: &str = "select coalesce(sum((xpath('/row/c/text()', query_to_xml(format('select count(*) as c from %I.%I', \
    table_schema, table_name), false, true, '')))[1]::text::bigint), 0)::bigint from information_schema.tables \
    where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema', 'weft_migrations') \
    and not (table_schema = 'chassis' and table_name = 'audit') \
    and not (table_schema = 'events' and table_name in ('lease', 'consumer', 'stream'))";

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_of_the_contract_is_enforced_and_names_its_field() {
    let stack = Arc::new(Stack::start().await);
    let before = rows(&stack).await;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let mut rules = 0;
    let mut unnamed = Vec::new();
    for method in pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
    {
        for bad in bad_requests(&method.input(), DEPTH) {
            rules += 1;
            let status = send(&stack, &method, bad.request.encode_to_vec().into()).await;
            let named: Vec<String> = fields(&status);
            if status.code() != Code::InvalidArgument || !named.contains(&bad.path) {
                unnamed.push(format!(
                    "{} {}: {} {named:?}",
                    method.full_name(),
                    bad.path,
                    status.code()
                ));
            }
        }
    }
    assert!(unnamed.is_empty(), "{} of {rules}: {unnamed:#?}", unnamed.len());
    assert!(rules > 200, "only {rules} rules were found");
    assert_eq!(rows(&stack).await, before, "a refused request wrote a row");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_between_fields_are_enforced_with_their_messages() {
    let stack = Stack::start().await;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let mut rules = 0;
    for method in pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
    {
        let empty = DynamicMessage::new(method.input());
        for message in message_rules(&method.input())
            .into_iter()
            .filter(|rule| rule.contains("required"))
        {
            rules += 1;
            let status = send(&stack, &method, empty.encode_to_vec().into()).await;
            let details = status.get_error_details();
            let said = details
                .bad_request()
                .into_iter()
                .flat_map(|bad| &bad.field_violations);
            assert!(
                said.clone()
                    .any(|violation| violation.description.contains(&message)),
                "{}: {message:?} is not in {:?}",
                method.full_name(),
                said.collect::<Vec<_>>()
            );
        }
    }
    assert!(rules >= 4, "only {rules} rules were found");
}

/// A request that violates one rule at `path`, and maybe others by missing fields.
struct Bad {
    path: String,
    request: DynamicMessage,
}

fn bad_requests(message: &MessageDescriptor, depth: usize) -> Vec<Bad> {
    let mut found = Vec::new();
    for field in message.fields() {
        let rules = field_rules(&field);
        for value in rules.iter().flat_map(|rules| bad_values(&field, rules)) {
            let mut request = DynamicMessage::new(message.clone());
            if let Some(value) = value {
                request.set_field(&field, value);
            }
            found.push(Bad {
                path: field.name().to_owned(),
                request,
            });
        }
        let Kind::Message(inner) = field.kind() else {
            continue;
        };
        if depth == 0 || inner.full_name().starts_with("google.") || rules.iter().any(are_requests) {
            continue;
        }
        for bad in bad_requests(&inner, depth - 1) {
            let mut request = DynamicMessage::new(message.clone());
            let nested = Value::Message(bad.request);
            let (value, place) = if field.is_list() {
                (Value::List(vec![nested]), format!("{}[0]", field.name()))
            } else {
                (nested, field.name().to_owned())
            };
            request.set_field(&field, value);
            found.push(Bad {
                path: format!("{place}.{}", bad.path),
                request,
            });
        }
    }
    found
}

/// Whether a field's items are requests, each with a result of its own (`bulk_calls`, `order_bulk`).
fn are_requests(rules: &DynamicMessage) -> bool {
    let items = inner(rules, "repeated").and_then(|rules| inner(&rules, "items"));
    let ignore = items.and_then(|items| items.get_field_by_name("ignore")?.as_enum_number());
    ignore == Some(3) // IGNORE_ALWAYS
}

/// Values that violate the rules of a field, one for each rule; `None` leaves the field out.
fn bad_values(field: &FieldDescriptor, rules: &DynamicMessage) -> Vec<Option<Value>> {
    let mut bad = Vec::new();
    if flag(rules, "required") {
        bad.push(None);
    }
    if !list(rules, "cel").is_empty() {
        bad.push(Some(negative(field, "units")));
    }
    for kind in [
        "string", "bytes", "int32", "uint32", "enum", "repeated", "duration",
    ] {
        if let Some(of_kind) = inner(rules, kind) {
            bad.extend(bad_of_kind(field, kind, &of_kind).into_iter().map(Some));
        }
    }
    bad
}

fn bad_of_kind(field: &FieldDescriptor, kind: &str, rules: &DynamicMessage) -> Vec<Value> {
    let has = |name: &str| {
        rules
            .descriptor()
            .get_field_by_name(name)
            .is_some_and(|field| rules.has_field(&field))
    };
    let number = |name: &str| integer(rules, name);
    let text = |length: i64| "x".repeat(usize::try_from(length).unwrap());
    let mut bad = Vec::new();
    match kind {
        "string" => {
            bad.extend(has("uuid").then(|| Value::String("no uuid".to_owned())));
            bad.extend(has("pattern").then(|| Value::String(" \u{1}".to_owned())));
            bad.extend(has("in").then(|| Value::String("no such value".to_owned())));
            bad.extend(has("min_len").then(|| Value::String(String::new())));
            bad.extend(has("max_len").then(|| Value::String(text(number("max_len") + 1))));
        }
        "bytes" => {
            bad.extend(has("max_len").then(|| Value::Bytes(text(number("max_len") + 1).into())));
        }
        "int32" => {
            let below = Value::I32(i32::try_from(number("gte") - 1).unwrap());
            bad.extend(has("gte").then_some(below));
            bad.extend(has("lte").then(|| Value::I32(i32::try_from(number("lte") + 1).unwrap())));
            bad.extend(has("in").then_some(Value::I32(-7)));
        }
        "uint32" => bad.extend(has("lte").then(|| Value::U32(u32::try_from(number("lte") + 1).unwrap()))),
        "enum" => {
            bad.extend(has("defined_only").then_some(Value::EnumNumber(9_999)));
            bad.extend(has("not_in").then_some(Value::EnumNumber(0)));
        }
        "repeated" => {
            bad.extend(has("min_items").then(|| Value::List(Vec::new())));
            let many = usize::try_from(number("max_items") + 1).unwrap();
            bad.extend(
                has("max_items").then(|| Value::List(vec![Value::default_value(&field.kind()); many])),
            );
        }
        _ => bad.push(negative(field, "seconds")),
    }
    bad
}

/// A negative amount or duration.
fn negative(field: &FieldDescriptor, part: &str) -> Value {
    let mut value = Value::default_value(&field.kind());
    if let Some(message) = value.as_message_mut() {
        message.set_field_by_name(part, Value::I64(-1));
    }
    value
}

fn field_rules(field: &FieldDescriptor) -> Option<DynamicMessage> {
    extension(&field.options(), "buf.validate.field")
}

/// The messages of the rules between the fields of a message.
fn message_rules(message: &MessageDescriptor) -> Vec<String> {
    let rules = extension(&message.options(), "buf.validate.message");
    let rules = rules.map(|rules| list(&rules, "cel")).unwrap_or_default();
    rules
        .iter()
        .filter_map(|rule| {
            Some(
                rule.as_message()?
                    .get_field_by_name("message")?
                    .as_str()?
                    .to_owned(),
            )
        })
        .collect()
}

/// The value of an option within a field's rules, if it is set.
pub(crate) fn rule_of(field: &FieldDescriptor, path: &[&str]) -> Option<Value> {
    let mut value = Value::Message(field_rules(field)?);
    for name in path {
        let message = value.as_message()?;
        let next = message.descriptor().get_field_by_name(name)?;
        value = message
            .has_field(&next)
            .then(|| message.get_field(&next).into_owned())?;
    }
    Some(value)
}

/// Whether the field has this boolean option.
pub(crate) fn has_option(field: &FieldDescriptor, name: &str) -> bool {
    let extension = field.parent_pool().get_extension_by_name(name).unwrap();
    field
        .options()
        .get_extension(&extension)
        .as_bool()
        .unwrap_or_default()
}

fn extension(options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let extension = options.descriptor().parent_pool().get_extension_by_name(name)?;
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).as_message().cloned())?
}

fn inner(message: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let field = message.descriptor().get_field_by_name(name)?;
    message
        .has_field(&field)
        .then(|| message.get_field(&field).as_message().cloned())?
}

fn flag(message: &DynamicMessage, name: &str) -> bool {
    message
        .get_field_by_name(name)
        .and_then(|value| value.as_bool())
        .unwrap_or_default()
}

fn list(message: &DynamicMessage, name: &str) -> Vec<Value> {
    message
        .get_field_by_name(name)
        .and_then(|value| Some(value.as_list()?.to_vec()))
        .unwrap_or_default()
}

fn integer(message: &DynamicMessage, name: &str) -> i64 {
    match message.get_field_by_name(name).as_deref() {
        Some(Value::U64(number)) => i64::try_from(*number).unwrap(),
        Some(Value::I32(number)) => i64::from(*number),
        Some(Value::U32(number)) => i64::from(*number),
        _ => 0,
    }
}

pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .into_iter()
        .flat_map(|bad| bad.field_violations.clone());
    violations.map(|violation| violation.field).collect()
}

pub(crate) async fn rows(stack: &Stack) -> BTreeMap<Service, i64> {
    let mut rows = BTreeMap::new();
    for service in Service::ALL {
        rows.insert(service, stack.database(service).count(ROWS).await);
    }
    rows
}

/// The service of a method. Every service serves the operators' tools; sagas belong to the order service.
pub(crate) fn server_of(method: &MethodDescriptor) -> Service {
    match method.parent_service().package_name() {
        "payment.v1" => Service::Payment,
        "claims.v1" => Service::Claims,
        _ => Service::Order,
    }
}

pub(crate) async fn send(stack: &Stack, method: &MethodDescriptor, body: Bytes) -> Status {
    let mut client = Grpc::new(stack.connect(server_of(method), &stack.token("validation", &["admin"])));
    client.ready().await.unwrap();
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = path.parse().unwrap();
    let takes_several = method
        .input()
        .get_field_by_name("requests")
        .is_some_and(|field| field.is_list());
    let answer = if method.is_client_streaming() {
        client
            .client_streaming(Request::new(tokio_stream::once(body)), path, Raw)
            .await
            .map(drop)
    } else {
        match client.server_streaming(Request::new(body), path, Raw).await {
            Ok(mut answers) if takes_several => {
                let answer = answers.get_mut().message().await.unwrap();
                refused_alone(&DynamicMessage::decode(method.output(), answer.unwrap()).unwrap())
                    .map_or(Ok(()), Err)
            }
            answer => answer.map(drop),
        }
    };
    answer.err().unwrap_or_else(|| Status::ok("it was not refused"))
}

/// The error of the first of several requests. Its fields are named relative to the call's message.
fn refused_alone(answer: &DynamicMessage) -> Option<Status> {
    let results = list(answer, "results");
    let error = inner(results.first()?.as_message()?, "error")?;
    let status = chassis::bulk::from_message(&error.transcode_to().unwrap());
    let named = |field| FieldViolation::new(format!("requests[0].{field}"), "");
    let named: Vec<_> = fields(&status).into_iter().map(named).collect();
    let details = ErrorDetails::with_bad_request(named);
    Some(Status::with_error_details(
        status.code(),
        status.message(),
        details,
    ))
}

//! Invalid values, sent in every field of every method. They are generated from the descriptors, so that a new
//! method or field is covered without a change here.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use tests::{Options, Service, Stack, eventually};
use tonic::Code;

use crate::validation::{fields, has_option, rows, rule_of, send};

/// How deep requests nest: a line's observation in an activity of a claim of an order.
const DEPTH: usize = 5;
/// Placeholder in a text for bytes that are not UTF-8.
const ILL_FORMED: &str = "\u{1}ill\u{1}";

#[tokio::test(flavor = "multi_thread")]
async fn no_method_takes_a_hostile_value_in_any_field_and_each_is_named() {
    let stack = Arc::new(Stack::start().await);
    let before = rows(&stack).await;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let (mut tried, mut taken) = (0, Vec::new());
    let services = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    for method in services {
        for hostile in hostile_requests(&method.input(), DEPTH) {
            tried += 1;
            let status = send(&stack, &method, ill_formed(&hostile.request)).await;
            let named = fields(&status);
            if status.code() != Code::InvalidArgument || !named.contains(&hostile.path) {
                taken.push(format!(
                    "{} {} ({}): {} {named:?}",
                    method.full_name(),
                    hostile.path,
                    hostile.what,
                    status.code()
                ));
            }
            let size = status.message().len() + status.details().len();
            assert!(size < 6 * 1024, "{}: {size} bytes of status", method.full_name());
        }
    }
    assert!(taken.is_empty(), "{} of {tried}: {taken:#?}", taken.len());
    assert!(tried > 2_000, "only {tried} values were tried");
    assert_eq!(rows(&stack).await, before, "a refused request wrote a row");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_its_request_id_is_audited_and_so_is_all_that_follows() {
    let stack = Stack::with(Options::default().only(&[Service::Payment])).await;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let service = pool.get_service_by_name("payment.v1.PaymentService").unwrap();
    let method = service
        .methods()
        .find(|method| method.name() == "VoidPayment")
        .unwrap();
    let database = stack.database(Service::Payment).superuser().await;
    for request_id in ["a\0b", &"x".repeat(3_000_000), "7"] {
        let mut request = DynamicMessage::new(method.input());
        request.set_field_by_name("request_id", Value::String(request_id.to_owned()));
        let status = send(&stack, &method, request.encode_to_vec().into()).await;
        assert!(fields(&status).contains(&"request_id".to_owned()), "{status}");
    }
    let ids = eventually(std::time::Duration::from_secs(10), || async {
        let ids: Vec<String> = sqlx::query_scalar("select request_id from chassis.audit order by id")
            .fetch_all(&database)
            .await
            .unwrap();
        (ids.len() == 3).then_some(ids)
    })
    .await;
    assert_eq!(ids[0], "a\u{fffd}b");
    assert!(
        ids[1].ends_with('…') && ids[1].chars().count() <= 64,
        "{}",
        ids[1]
    );
    assert_eq!(ids[2], "7");
}

struct Hostile {
    path: String,
    what: String,
    request: DynamicMessage,
}

fn hostile_requests(message: &MessageDescriptor, depth: usize) -> Vec<Hostile> {
    let mut found = Vec::new();
    for field in message.fields() {
        for (what, value, place) in placed(&field, hostile_values(&field)) {
            let mut request = DynamicMessage::new(message.clone());
            request.set_field(&field, value);
            found.push(Hostile {
                path: place,
                what,
                request,
            });
        }
        if field.is_list() && rule_of(&field, &["repeated", "max_items"]).is_none() {
            let mut request = DynamicMessage::new(message.clone());
            request.set_field(
                &field,
                Value::List(vec![Value::default_value(&field.kind()); 1_001]),
            );
            found.push(Hostile {
                path: field.name().to_owned(),
                what: "too many items".to_owned(),
                request,
            });
        }
        let Kind::Message(inner) = field.kind() else {
            continue;
        };
        if depth == 0 || inner.full_name().starts_with("google.") || field.is_map() {
            continue;
        }
        for hostile in hostile_requests(&inner, depth - 1) {
            let nested = vec![(hostile.what, Value::Message(hostile.request))];
            for (what, value, place) in placed(&field, nested) {
                let mut request = DynamicMessage::new(message.clone());
                request.set_field(&field, value);
                found.push(Hostile {
                    path: format!("{place}.{}", hostile.path),
                    what,
                    request,
                });
            }
        }
    }
    found
}

/// The values in the shape of the field, with the path that names each.
fn placed(field: &FieldDescriptor, values: Vec<(String, Value)>) -> Vec<(String, Value, String)> {
    let name = field.name();
    let place = |(what, value)| match (field.is_list(), field.is_map()) {
        (true, _) => (what, Value::List(vec![value]), format!("{name}[0]")),
        (_, true) => {
            let entry = [(MapKey::String("k".to_owned()), value)].into_iter().collect();
            (what, Value::Map(entry), format!("{name}[\"k\"]"))
        }
        _ => (what, value, name.to_owned()),
    };
    values.into_iter().map(place).collect()
}

fn hostile_values(field: &FieldDescriptor) -> Vec<(String, Value)> {
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    match kind {
        Kind::String => texts(field),
        Kind::Bytes if rule_of(field, &["bytes", "max_len"]).is_none() => {
            vec![("too long".to_owned(), Value::Bytes(vec![7; 65_537].into()))]
        }
        Kind::Float => numbers([f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(Value::F32)),
        Kind::Double => numbers([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Value::F64)),
        Kind::Uint64 | Kind::Fixed64 => numbers([Value::U64(u64::MAX)]),
        Kind::Enum(_) => numbers([Value::EnumNumber(9_999)]),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => parts(
                &message,
                [
                    (i64::MAX, 0),
                    (i64::MIN, 0),
                    (0, -1),
                    (0, i32::MAX),
                    (253_402_300_800, 0),
                ],
                "seconds",
            ),
            "google.protobuf.Duration" => parts(
                &message,
                [(i64::MAX, 0), (i64::MIN, 0), (1, -1), (-1, 1), (1, i32::MAX)],
                "seconds",
            ),
            "google.type.Money" => [
                currencies(&message),
                parts(
                    &message,
                    [(i64::MAX, 0), (i64::MIN, 0), (1, -1), (1, i32::MAX)],
                    "units",
                ),
            ]
            .concat(),
            "google.type.Decimal" => [
                "1\0",
                "NaN",
                "Infinity",
                "",
                "1e",
                "1,5",
                ILL_FORMED,
                &"9".repeat(2_000),
            ]
            .map(|text| {
                (
                    format!("{text:?}"),
                    with(&message, "value", Value::String(text.to_owned())),
                )
            })
            .to_vec(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn texts(field: &FieldDescriptor) -> Vec<(String, Value)> {
    let longest = rule_of(field, &["string", "max_len"]).and_then(|longest| longest.as_u64());
    let length = usize::try_from(longest.unwrap_or(1_000)).unwrap() + 1;
    let mut texts = vec![
        "a\0b".to_owned(),
        "\0".to_owned(),
        "a\u{1}".to_owned(),
        "\u{1b}[2J".to_owned(),
        "a\u{7f}b".to_owned(),
        "a\u{85}b".to_owned(),
        "a\u{202e}b".to_owned(),
        "a\u{2066}b".to_owned(),
        "a\u{ffff}b".to_owned(),
        ILL_FORMED.to_owned(),
        "x".repeat(length),
        "ع".repeat(length),
    ];
    if !has_option(field, "mesh.v1.multiline") {
        texts.extend(["a\nb", "a\tb", "a\r\nb", "a\u{2028}b"].map(str::to_owned));
    }
    let what = |text: &str| {
        text.chars()
            .take(10)
            .flat_map(char::escape_unicode)
            .collect::<String>()
    };
    texts
        .into_iter()
        .map(|text| (what(&text), Value::String(text)))
        .collect()
}

fn numbers<const N: usize>(values: [Value; N]) -> Vec<(String, Value)> {
    values.map(|value| (format!("{value:?}"), value)).to_vec()
}

fn parts<const N: usize>(
    message: &MessageDescriptor,
    values: [(i64, i32); N],
    whole: &str,
) -> Vec<(String, Value)> {
    let one = |(number, nanos)| {
        let mut one = DynamicMessage::new(message.clone());
        one.set_field_by_name(whole, Value::I64(number));
        one.set_field_by_name("nanos", Value::I32(nanos));
        if whole == "units" {
            one.set_field_by_name("currency_code", Value::String("AED".to_owned()));
        }
        (format!("{number} and {nanos} nanos"), Value::Message(one))
    };
    values.map(one).to_vec()
}

fn currencies(message: &MessageDescriptor) -> Vec<(String, Value)> {
    ["", "AE", "aed", "A\0D", "DIRHAM", ILL_FORMED]
        .map(|code| {
            (
                format!("{code:?}"),
                with(message, "currency_code", Value::String(code.to_owned())),
            )
        })
        .to_vec()
}

fn with(message: &MessageDescriptor, field: &str, value: Value) -> Value {
    let mut one = DynamicMessage::new(message.clone());
    one.set_field_by_name(field, value);
    Value::Message(one)
}

/// The encoded request, with bytes that are not UTF-8 in place of the placeholder.
fn ill_formed(request: &DynamicMessage) -> Bytes {
    let mut bytes = request.encode_to_vec();
    let mark = ILL_FORMED.as_bytes();
    if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
        bytes[at..at + mark.len()].fill(0xff);
    }
    bytes.into()
}

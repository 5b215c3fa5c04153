//! The AsyncAPI document for other readers of the events matches the current contract.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::{Value, json};

#[test]
fn the_checked_in_asyncapi_document_is_fresh() {
    let kept = fs::read_to_string(tests::workspace_root().join("docs/asyncapi.json")).unwrap();
    let now = events::asyncapi(proto::DESCRIPTORS).unwrap();
    // The texts are long: the file name is enough for the message.
    assert!(
        kept == format!("{now:#}\n"),
        "docs/asyncapi.json is stale: run `make asyncapi`"
    );
}

#[test]
fn the_asyncapi_document_is_valid_by_the_schema_and_a_broken_one_is_not() {
    let mut document = events::asyncapi(proto::DESCRIPTORS).unwrap();
    let valid = validate(&document);
    let said = String::from_utf8_lossy(&valid.stderr);
    assert!(valid.status.success(), "{said}");
    document["info"].as_object_mut().unwrap().remove("title");
    document["operations"]["publish.order.v1.OrderPlaced"]["action"] = json!("sends");
    let broken = validate(&document);
    let said = String::from_utf8_lossy(&broken.stderr);
    assert_eq!(broken.status.code(), Some(1), "{said}");
    for place in [
        "/info: 'title' is a required property",
        "/operations/publish.order.v1.OrderPlaced",
    ] {
        assert!(said.contains(place), "{place}: {said}");
    }
}

fn validate(document: &Value) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("asyncapi.json");
    fs::write(&file, document.to_string()).unwrap();
    let mut validator = Command::new(tests::workspace_root().join("scripts/asyncapi-validate"));
    validator.arg(file).output().unwrap()
}

#[test]
fn every_reference_in_the_asyncapi_document_resolves() {
    let document = events::asyncapi(proto::DESCRIPTORS).unwrap();
    let mut found = 0;
    let mut waiting = vec![&document];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                    found += 1;
                }
                waiting.extend(fields.values());
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }
    assert!(found > 50, "only {found} references");
}

//! The description of the events that readers elsewhere work from is that of the contract as it is now.

use std::fs;

use serde_json::Value;

#[test]
fn the_checked_in_asyncapi_document_is_fresh() {
    let kept = fs::read_to_string(tests::workspace_root().join("docs/asyncapi.json")).unwrap();
    let now = events::asyncapi(proto::DESCRIPTORS).unwrap();
    // The texts are long: the file's name says enough.
    assert!(
        kept == format!("{now:#}\n"),
        "docs/asyncapi.json is stale: run `make asyncapi`"
    );
}

#[test]
fn every_reference_in_it_leads_somewhere() {
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

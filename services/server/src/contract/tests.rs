use std::sync::LazyLock;

use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

use super::*;

/// The contract of this workspace, with its limits on every field.
pub(crate) fn contract() -> &'static Contract {
    static CONTRACT: LazyLock<Contract> =
        LazyLock::new(|| Contract::new(proto::DESCRIPTORS).unwrap().limit_fields());
    &CONTRACT
}

/// A contract without any option: `plain.v1.Greeter/Greet` takes and returns a `plain.v1.Greeting`, which is a text.
pub(crate) fn plain() -> Vec<u8> {
    let name = |text: &str| Some(text.to_owned());
    let greeting = name(".plain.v1.Greeting");
    let file = FileDescriptorProto {
        name: name("plain/v1/greeter.proto"),
        package: name("plain.v1"),
        syntax: name("proto3"),
        message_type: vec![DescriptorProto {
            name: name("Greeting"),
            field: vec![FieldDescriptorProto {
                name: name("text"),
                number: Some(1),
                label: Some(Label::Optional.into()),
                r#type: Some(Type::String.into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: name("Greeter"),
            method: vec![MethodDescriptorProto {
                name: name("Greet"),
                input_type: greeting.clone(),
                output_type: greeting,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

fn described(contract: &Contract, note: &str) -> Vec<String> {
    let request = proto::order::v1::CancelOrderRequest {
        request_id: "7".to_owned(),
        reason: note.to_owned(),
        ..Default::default()
    };
    let found = contract.violations("order.v1.CancelOrderRequest", &request.encode_to_vec());
    let found = found.unwrap();
    let mut fields: Vec<_> = found.iter().map(|violation| violation.field.clone()).collect();
    fields.sort();
    fields
}

#[test]
fn the_limits_of_every_field_apply_only_when_they_are_asked_for() {
    let plain = Contract::new(proto::DESCRIPTORS).unwrap();
    let note = "a\u{7}b";
    assert!(!described(&plain, note).contains(&"reason".to_owned()));
    assert!(described(contract(), note).contains(&"reason".to_owned()));
    for contract in [&plain, contract()] {
        assert!(
            described(contract, "b").contains(&"request_id".to_owned()),
            "the field's own rules always apply"
        );
    }
}

#[test]
fn a_contract_without_rules_refuses_nothing_that_can_be_decoded() {
    let contract = Contract::new(plain()).unwrap();
    let greeting = "\u{7}".repeat(2_000);
    // Field 1, 2,000 bytes.
    let encoded = [&[10, 0xd0, 0x0f][..], greeting.as_bytes()].concat();
    assert_eq!(
        contract.violations("plain.v1.Greeting", &encoded),
        Ok(Violations::new())
    );
    assert!(contract.violations("plain.v1.Greeting", &[0xff]).is_err());
    assert!(contract.violations("plain.v1.Nothing", &[]).is_err());
    assert!(
        !contract
            .limit_fields()
            .violations("plain.v1.Greeting", &encoded)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn bytes_that_are_no_descriptors_are_an_error() {
    assert!(Contract::new(&b"nothing of the kind"[..]).is_err());
}

#[test]
fn comments_are_kept_for_reflection_only() {
    let schema = DescriptorPool::decode(proto::SCHEMA).unwrap();
    let contract = contract();
    assert_eq!(contract.pool().all_messages().len(), schema.all_messages().len());
    assert!(
        contract
            .pool()
            .files()
            .all(|file| file.file_descriptor_proto().source_code_info.is_none())
    );
    assert_eq!(contract.encoded(), proto::DESCRIPTORS);
}

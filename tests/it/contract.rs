//! Rules for every contract, checked on the descriptors that the services start with.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::Command,
};

use chassis::auth::Role;
use mesh::Policies;
use prost_reflect::{
    DescriptorPool, EnumDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};

/// The files of this project's packages; imported ones are not checked.
fn contracts() -> Vec<FileDescriptor> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let others = ["google.", "buf.", "grpc."];
    let ours: Vec<_> = pool
        .files()
        .filter(|file| !others.iter().any(|other| file.package_name().starts_with(other)))
        .collect();
    assert!(ours.len() >= 10, "the contracts are there: {}", ours.len());
    ours
}

fn methods() -> Vec<MethodDescriptor> {
    let services = contracts()
        .into_iter()
        .flat_map(|file| file.services().collect::<Vec<_>>());
    services
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect()
}

#[test]
fn every_rpc_has_a_mesh_policy_and_an_idempotency_level() {
    let policies = Policies::from_annotated_descriptors(proto::DESCRIPTORS).unwrap();
    for method in methods() {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let policy = policies
            .method(&path)
            .unwrap_or_else(|| panic!("{path} has no policy"));
        assert!(!policy.timeout.is_zero(), "{path} has no timeout");
        let options = method.method_descriptor_proto().options.as_ref();
        assert!(
            options.is_some_and(|options| options.idempotency_level.is_some()),
            "{path} has no idempotency_level"
        );
    }
}

/// The calls of a service are found in its source: the methods that are called where a generated client is named.
/// Background work uses the service's own token, which only a declared caller may use.
#[test]
fn every_method_that_a_service_calls_names_it_as_a_caller() {
    let policies = Policies::from_annotated_descriptors(proto::DESCRIPTORS).unwrap();
    let mut called = 0;
    for service in ["order", "payment", "claims"] {
        let folder = tests::workspace_root().join("services").join(service).join("src");
        for source in sources(&folder) {
            for method in methods() {
                let client = format!("{}Client", method.parent_service().name());
                if !source.contains(&client) || !calls(&source, method.name()) {
                    continue;
                }
                let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
                let policy = policies.method(&path).unwrap();
                called += 1;
                assert!(
                    policy.callers.iter().any(|caller| caller == service),
                    "{service} calls {path}, which does not name it among its callers"
                );
            }
        }
    }
    assert!(called >= 10, "the order service's calls are found: {called}");
}

/// The sources of a service without white space, so that a call over several lines is found.
fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push(text.split_whitespace().collect());
        }
    }
    found
}

/// Whether a source calls the method through a client: `.get_claim(context.request(`, or names it beside the
/// client as one that is called for one request and for several.
fn calls(source: &str, method: &str) -> bool {
    let mut snake = String::new();
    for letter in method.chars() {
        if letter.is_uppercase() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    let snake = snake.trim_start_matches('_');
    [
        format!(".{snake}(context.request("),
        format!("Client,{snake},"),
        format!(",{snake}):"),
    ]
    .iter()
    .any(|call| source.contains(call))
}

#[test]
fn every_role_of_a_method_is_one_that_a_token_can_have() {
    let policies = Policies::from_annotated_descriptors(proto::DESCRIPTORS).unwrap();
    for (path, policy) in policies.iter() {
        let unknown = policy.roles.iter().find(|name| Role::find(name).is_none());
        assert_eq!(unknown, None, "{path}");
    }
}

#[test]
fn only_methods_that_may_be_repeated_are_retried_or_hedged() {
    let policies = Policies::from_annotated_descriptors(proto::DESCRIPTORS).unwrap();
    for (path, policy) in policies.iter() {
        assert!(
            policy.retry.is_none() || policy.repeatable(),
            "{path} is retried and may not be repeated"
        );
        let reads = policy.idempotency == mesh::policy::Idempotency::NoSideEffects;
        assert!(
            policy.hedging.is_none() || reads,
            "{path} is hedged and has side effects"
        );
    }
}

/// Free text that a person writes as a `reason` or `comment` may have several lines, in every request and in every
/// event that contains it. Responses are not validated and need no rule.
#[test]
fn every_reason_of_a_request_or_event_may_have_several_lines() {
    let events = contracts()
        .into_iter()
        .filter(|file| file.name().ends_with("events.proto"))
        .flat_map(|file| file.messages().collect::<Vec<_>>());
    let mut waiting: Vec<_> = methods()
        .iter()
        .map(MethodDescriptor::input)
        .chain(events)
        .collect();
    let (mut seen, mut texts, mut of_one_line) = (HashSet::new(), 0, Vec::new());
    while let Some(message) = waiting.pop() {
        if !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        for field in message.fields() {
            if let Kind::Message(inner) = field.kind() {
                waiting.push(inner);
            }
            if !matches!(field.name(), "reason" | "comment") || field.kind() != Kind::String {
                continue;
            }
            texts += 1;
            let multiline = message
                .parent_pool()
                .get_extension_by_name("mesh.v1.multiline")
                .unwrap();
            if field.options().get_extension(&multiline).as_bool() != Some(true) {
                of_one_line.push(field.full_name().to_owned());
            }
        }
    }
    assert!(texts >= 20, "the texts are found: {texts}");
    assert!(
        of_one_line.is_empty(),
        "(mesh.v1.multiline) lacks at {of_one_line:#?}"
    );
}

#[test]
fn every_message_field_enum_value_and_rpc_is_explained() {
    let mut silent = Vec::new();
    for file in contracts() {
        let comments = comments(&file);
        let mut check = |name: &str, path: &[i32]| {
            if comments.get(path).is_none_or(|comment| comment.trim().is_empty()) {
                silent.push(name.to_owned());
            }
        };
        file.messages()
            .for_each(|message| visit_message(&message, &mut check));
        file.enums().for_each(|one| visit_enum(&one, &mut check));
        for service in file.services() {
            check(service.full_name(), service.path());
            service
                .methods()
                .for_each(|method| check(method.full_name(), method.path()));
        }
    }
    assert!(silent.is_empty(), "no comment on {silent:#?}");
}

/// Runs the check of `make contracts` on a copy with a changed wire format.
#[test]
fn a_change_that_breaks_the_wire_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = tests::workspace_root();
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let from = |name: &str| root.join(name).to_string_lossy().into_owned();
    assert!(run(Path::new("cp"), &["-r", &from("proto"), &from("buf.yaml"), "."]).0);
    let buf = root.join(".tools/bin/buf");
    let breaks = || {
        assert!(run(&buf, &["build", "--exclude-source-info", "-o", "now.binpb"]).0);
        run(
            &buf,
            &["breaking", "now.binpb", "--against", "proto/released.binpb"],
        )
    };
    assert_eq!(breaks(), (true, String::new()));

    let file = folder.path().join("proto/order/v1/order.proto");
    let contract = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, contract.replacen("string id = 1", "string id = 99", 1)).unwrap();
    let (fine, report) = breaks();
    assert!(!fine && report.contains("deleted"), "{report}");
}

fn comments(file: &FileDescriptor) -> HashMap<Vec<i32>, String> {
    let info = file
        .file_descriptor_proto()
        .source_code_info
        .clone()
        .unwrap_or_default();
    info.location
        .into_iter()
        .filter_map(|location| Some((location.path, location.leading_comments?)))
        .collect()
}

fn visit_message(message: &MessageDescriptor, check: &mut impl FnMut(&str, &[i32])) {
    if message.is_map_entry() {
        return;
    }
    check(message.full_name(), message.path());
    message
        .fields()
        .for_each(|field| check(field.full_name(), field.path()));
    message
        .child_messages()
        .for_each(|child| visit_message(&child, check));
    message.child_enums().for_each(|child| visit_enum(&child, check));
}

fn visit_enum(one: &EnumDescriptor, check: &mut impl FnMut(&str, &[i32])) {
    check(one.full_name(), one.path());
    one.values()
        .for_each(|value| check(value.full_name(), value.path()));
}

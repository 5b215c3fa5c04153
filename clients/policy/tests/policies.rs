//! Reading policies from contracts.

#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use prost::Message as _;
use tonic::Code;
use weft_policy::{Criticality, Error, Idempotency, Policies, RateLimitClass};

fn compile(file: &str) -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let contracts = here.join("../../proto");
    let mut compiler = protox::Compiler::new([
        here.join("tests/contracts"),
        contracts.clone(),
        contracts.join("third_party"),
    ])
    .unwrap();
    compiler.include_imports(true).open_file(file).unwrap();
    compiler.encode_file_descriptor_set()
}

#[test]
fn every_declared_option_is_read() {
    let policies = Policies::from_annotated_descriptors(&compile("good.proto")).unwrap();
    let get = policies.method("/good.v1.LibraryService/GetBook").unwrap();
    assert_eq!(get.timeout, Duration::from_millis(500));
    let retry = get.retry.as_ref().unwrap();
    assert_eq!(
        (retry.max_attempts, retry.initial_backoff),
        (3, Duration::from_millis(50))
    );
    assert_eq!(
        (retry.max_backoff, retry.backoff_multiplier),
        (Duration::from_secs(1), 2.0)
    );
    assert_eq!(retry.retryable_codes, [Code::Unavailable, Code::Aborted]);
    let hedging = get.hedging.as_ref().unwrap();
    assert_eq!(
        (hedging.max_attempts, hedging.delay),
        (2, Duration::from_millis(100))
    );
    assert_eq!(
        (get.criticality, get.rate_limit_class),
        (Criticality::Critical, RateLimitClass::Read)
    );
    assert_eq!(get.roles, ["viewer", "clerk"]);
    assert_eq!(get.callers, ["order"]);
    assert!(get.audited && !get.anonymous && !get.has_request_id);
    assert_eq!(get.idempotency, Idempotency::NoSideEffects);
    assert_eq!(get.input, "good.v1.GetBookRequest");

    let add = policies.method("/good.v1.LibraryService/AddBooks").unwrap();
    assert!(add.client_streaming && add.has_request_id && add.retry.is_none());
    assert_eq!(add.criticality, Criticality::Normal);
    assert!(policies.method("/good.v1.LibraryService/Unknown").is_none());
}

#[test]
fn a_method_may_name_a_class_of_retries_that_the_contract_defines() {
    let policies = Policies::from_annotated_descriptors(&compile("good.proto")).unwrap();
    let lend = policies.method("/good.v1.LibraryService/LendBook").unwrap();
    let retry = lend.retry.as_ref().unwrap();
    assert_eq!(
        (retry.max_attempts, retry.initial_backoff, retry.max_backoff),
        (4, Duration::from_millis(50), Duration::from_secs(1))
    );
    assert_eq!(
        retry.retryable_codes,
        [Code::Unavailable, Code::Aborted, Code::ResourceExhausted]
    );
}

#[test]
fn every_error_is_reported_with_its_method() {
    let Err(Error::Contract(errors)) = Policies::from_annotated_descriptors(&compile("bad.proto")) else {
        panic!("a contract with errors")
    };
    let reported = |method: &str, error: &str| {
        errors
            .iter()
            .any(|line| line.starts_with(&format!("bad.v1.FaultyService.{method}: {error}")))
    };
    assert!(reported("NoPolicy", "no (mesh.v1.policy)"), "{errors:#?}");
    assert!(reported("NoLevel", "no idempotency_level"), "{errors:#?}");
    assert!(reported("NoTimeout", "timeout"), "{errors:#?}");
    assert!(
        reported("UnsafeRetry", "retry: needs an idempotency_level"),
        "{errors:#?}"
    );
    assert!(reported("UnsafeRetry", "retry.max_attempts"), "{errors:#?}");
    assert!(
        reported("UnsafeHedge", "hedging: needs NO_SIDE_EFFECTS"),
        "{errors:#?}"
    );
    assert!(
        reported("TwoRetries", "retry: must be absent beside a retry_class"),
        "{errors:#?}"
    );
    assert!(
        reported("UnsafeRetryClass", "retry: needs an idempotency_level"),
        "{errors:#?}"
    );
    assert!(
        reported("UnknownCode", "retry.retryable_codes: contains a value"),
        "{errors:#?}"
    );
    assert_eq!(errors.len(), 9);
}

#[test]
fn methods_without_options_have_defaults_and_wrong_options_are_errors() {
    let plain = compile("plain.proto");
    assert!(Policies::from_annotated_descriptors(&plain).is_err());
    let policies = Policies::from_descriptors(&plain).unwrap();
    let hello = policies.method("/greeter.v1.GreeterService/SayHello").unwrap();
    assert!(!hello.declared && !hello.repeatable() && hello.retry.is_none());
    assert!(hello.has_known_shape(), "the contract describes it");
    let hellos = policies.method("/greeter.v1.GreeterService/SayHellos").unwrap();
    assert!(hellos.server_streaming && hellos.repeatable());
    let Err(Error::Contract(errors)) = Policies::from_descriptors(&compile("bad.proto")) else {
        panic!("options that cannot be used")
    };
    let without_options = |line: &&String| line.contains("no (mesh") || line.contains("no idempotency_level");
    assert_eq!(errors.iter().find(without_options), None);
    assert_eq!(errors.len(), 7, "{errors:#?}");
}

#[test]
fn a_service_of_grpcs_own_packages_is_read_only_if_it_has_policies() {
    let external = compile("external.proto");
    for policies in [
        Policies::from_descriptors(&external),
        Policies::from_annotated_descriptors(&external),
    ] {
        let policies = policies.unwrap();
        let annotated = policies.method("/grpc.example.AnnotatedService/Get").unwrap();
        assert_eq!(annotated.timeout, Duration::from_secs(1));
        assert!(policies.method("/grpc.example.PlainService/Get").is_none());
    }
}

/// Without this, every method would be open to everybody.
#[test]
fn a_contract_whose_options_were_lost_is_an_error() {
    let pool = prost_reflect::DescriptorPool::decode(compile("good.proto").as_slice()).unwrap();
    let files = pool.file_descriptor_protos().cloned().collect();
    let again = prost_types::FileDescriptorSet { file: files }.encode_to_vec();
    let Err(Error::Contract(errors)) = Policies::from_descriptors(&again) else {
        panic!("the options are lost")
    };
    assert_eq!(
        errors,
        ["good.proto imports mesh/v1/policy.proto, and no method has (mesh.v1.policy)"]
    );
}

/// A contract may bring a `mesh/v1/policy.proto` of its own.
#[test]
fn access_rules_of_another_type_are_an_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contracts/foreign");
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut compiler = protox::Compiler::new([folder, proto.join("third_party")]).unwrap();
    compiler.include_imports(true).open_file("service.proto").unwrap();
    let Err(Error::Contract(errors)) = Policies::from_descriptors(&compiler.encode_file_descriptor_set())
    else {
        panic!("the roles cannot be read")
    };
    let wrong = "role_names: has another type than in Weft's mesh/v1/policy.proto";
    assert_eq!(errors, [format!("foreign.v1.Service.Get: {wrong}")]);
}

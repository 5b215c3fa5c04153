//! Reflection over the network.

use std::collections::BTreeMap;

use prost_reflect::DescriptorPool;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_reflection::pb::v1::{
    ExtensionRequest, ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_reflection::pb::v1alpha;

use super::test_server::TestServer;
use crate::server::{Reflection, Settings};

/// Sends all queries on one stream.
async fn ask(
    channel: &Channel,
    token: Option<&str>,
    questions: Vec<Option<MessageRequest>>,
) -> Result<Vec<MessageResponse>, Status> {
    let questions = questions
        .into_iter()
        .map(|message_request| ServerReflectionRequest {
            host: String::new(),
            message_request,
        });
    let mut request = Request::new(tokio_stream::iter(questions.collect::<Vec<_>>()));
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    let mut client = ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(request).await?.into_inner();
    let answers: Vec<_> = answers.collect().await;
    answers
        .into_iter()
        .map(|answer| Ok(answer?.message_response.unwrap()))
        .collect()
}

fn symbol(name: &str) -> Option<MessageRequest> {
    Some(MessageRequest::FileContainingSymbol(name.to_owned()))
}

fn file(name: &str) -> Option<MessageRequest> {
    Some(MessageRequest::FileByFilename(name.to_owned()))
}

fn extension(name: &str, extension_number: i32) -> Option<MessageRequest> {
    Some(MessageRequest::FileContainingExtension(ExtensionRequest {
        containing_type: name.to_owned(),
        extension_number,
    }))
}

fn is_file(answer: &MessageResponse) -> bool {
    matches!(answer, MessageResponse::FileDescriptorResponse(_))
}

fn is_error(answer: &MessageResponse, code: Code) -> bool {
    matches!(answer, MessageResponse::ErrorResponse(error)
        if error.error_code == i32::from(code) && error.error_message.len() < 4_096)
}

#[tokio::test]
async fn each_query_gets_a_response_and_an_unknown_name_does_not_end_the_stream() {
    let server = TestServer::start().await;
    let long = "x".repeat(100_000);
    let numbers = |name: &str| Some(MessageRequest::AllExtensionNumbersOfType(name.to_owned()));
    let questions = vec![
        symbol("payment.v1.PaymentService"),
        file("no/such.proto"),
        extension("google.protobuf.MethodOptions", 7),
        numbers("no.such.Message"),
        None,
        symbol(&long),
        file(&long),
        symbol("order.v1.OrderService.PlaceOrder"),
        symbol("google.rpc.ErrorInfo"),
    ];
    let answers = ask(&server.grpc, None, questions).await.unwrap();
    assert_eq!(answers.len(), 9);
    for (at, answer) in answers[..7].iter().enumerate() {
        let code = if at == 4 {
            Code::InvalidArgument
        } else {
            Code::NotFound
        };
        assert!(is_error(answer, code), "{at}: {answer:?}");
    }
    assert!(answers[7..].iter().all(is_file));
}

#[tokio::test]
async fn listed_services_can_be_loaded_with_options_and_error_details() {
    let server = TestServer::start().await;
    let listed = ask(
        &server.grpc,
        None,
        vec![Some(MessageRequest::ListServices(String::new()))],
    );
    let MessageResponse::ListServicesResponse(listed) = listed.await.unwrap().remove(0) else {
        panic!("the services are listed")
    };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    let details = [
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
        "google.rpc.Status",
    ];
    let wanted = names
        .iter()
        .map(String::as_str)
        .chain(details)
        .chain(["mesh.v1.policy"]);
    let mut files = BTreeMap::new();
    let mut questions: Vec<_> = wanted.map(symbol).collect();
    while !questions.is_empty() {
        for answer in ask(&server.grpc, None, std::mem::take(&mut questions))
            .await
            .unwrap()
        {
            let MessageResponse::FileDescriptorResponse(found) = answer else {
                panic!("{answer:?}")
            };
            let encoded = found.file_descriptor_proto[0].clone();
            let decoded: prost_types::FileDescriptorProto =
                prost::Message::decode(encoded.as_slice()).unwrap();
            let missing = decoded
                .dependency
                .iter()
                .filter(|name| !files.contains_key(*name));
            questions.extend(missing.map(|name| file(name)));
            files.insert(decoded.name().to_owned(), encoded);
        }
    }
    let pool = pool(files);
    for name in &names {
        assert!(pool.get_service_by_name(name).is_some(), "{name}");
    }
    for name in details {
        assert!(pool.get_message_by_name(name).is_some(), "{name}");
    }
    let policy = pool.get_extension_by_name("mesh.v1.policy").unwrap();
    let orders = pool.get_service_by_name("order.v1.OrderService").unwrap();
    assert!(
        orders
            .methods()
            .all(|method| method.options().has_extension(&policy))
    );
}

/// Files come in any order; each is added after its imports.
fn pool(mut files: BTreeMap<String, Vec<u8>>) -> DescriptorPool {
    let mut pool = DescriptorPool::new();
    while !files.is_empty() {
        let before = files.len();
        files.retain(|_, encoded| pool.decode_file_descriptor_proto(encoded.as_slice()).is_err());
        assert!(files.len() < before, "{:?} cannot be loaded", files.keys());
    }
    pool
}

#[tokio::test]
async fn the_options_of_the_mesh_are_found_by_number_and_by_name() {
    let server = TestServer::start().await;
    let of = "google.protobuf.MethodOptions";
    let questions = vec![
        extension(of, 50100),
        symbol("mesh.v1.policy"),
        Some(MessageRequest::AllExtensionNumbersOfType(of.to_owned())),
        symbol("grpc.reflection.v1alpha.ServerReflection"),
    ];
    let answers = ask(&server.grpc, None, questions).await.unwrap();
    assert!(is_file(&answers[0]) && is_file(&answers[1]) && is_file(&answers[3]));
    let MessageResponse::AllExtensionNumbersResponse(numbers) = &answers[2] else {
        panic!("{answers:?}")
    };
    assert_eq!(numbers.base_type_name, of);
    assert!(numbers.extension_number.contains(&50100));
}

#[tokio::test]
async fn v1alpha_responds_like_v1() {
    let server = TestServer::start().await;
    let ask = |name: &str| v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(name.to_owned()),
        ),
    };
    let questions = tokio_stream::iter([ask("no.such"), ask("grpc.reflection.v1.ServerReflection")]);
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.grpc.clone());
    let answers = client
        .server_reflection_info(questions)
        .await
        .unwrap()
        .into_inner();
    let answers: Vec<_> = answers
        .map(|answer| answer.unwrap().message_response.unwrap())
        .collect()
        .await;
    use v1alpha::server_reflection_response::MessageResponse as Older;
    assert!(
        matches!(&answers[0], Older::ErrorResponse(error) if error.error_code == i32::from(Code::NotFound))
    );
    assert!(matches!(&answers[1], Older::FileDescriptorResponse(_)));
}

#[tokio::test]
async fn reflection_can_be_switched_off_or_require_a_token() {
    let with = async |reflection| {
        TestServer::with(Settings {
            reflection,
            ..Settings::default()
        })
        .await
    };
    let services = || vec![Some(MessageRequest::ListServices(String::new()))];
    let server = with(Reflection::Off).await;
    for channel in [&server.grpc, &server.probe] {
        let refused = ask(channel, None, services()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
    let server = with(Reflection::Token).await;
    let refused = ask(&server.grpc, None, services()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let token = server.issuer.token(|_| {});
    assert_eq!(
        ask(&server.grpc, Some(&token), services()).await.unwrap().len(),
        1
    );
    let refused = ask(&server.probe, None, services()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

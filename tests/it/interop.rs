//! gRPC's interoperability cases with its own libraries for Python and Node: our client against their servers, and their
//! clients against our server.

use tests::interop::{
    InteropServer,
    testing::{SimpleRequest, test_service_client::TestServiceClient},
};
use tokio::time::timeout;
use tonic::{Code, codec::CompressionEncoding};

use crate::{
    interop_cases::CASES,
    interop_fixture::{LIMIT, Language, Peer, channel},
};

#[tokio::test]
async fn our_client_passes_the_interop_cases_against_python() {
    call_server(Language::Python).await;
}

#[tokio::test]
async fn our_client_passes_the_interop_cases_against_node() {
    call_server(Language::Node).await;
}

#[tokio::test]
async fn our_server_passes_the_interop_cases_of_python() {
    serve_client(Language::Python).await;
}

#[tokio::test]
async fn our_server_passes_the_interop_cases_of_node() {
    serve_client(Language::Node).await;
}

/// The clients of other makers take the header away before an application sees it.
#[tokio::test]
async fn our_server_names_its_encodings_to_a_caller_that_compresses() {
    let server = InteropServer::start().await;
    let client = TestServiceClient::new(channel(&server.address()));
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let refused = client.unary_call(SimpleRequest::default()).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_eq!(status.metadata().get("grpc-accept-encoding").unwrap(), "identity");
}

/// Runs our client's cases, all of them whatever fails, against a server of this language.
async fn call_server(language: Language) {
    let mut peer = Peer::start(language).await;
    let mut failed = Vec::new();
    for (name, run) in CASES {
        match timeout(LIMIT, run(&mut peer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}: {error:#}")),
            Err(_) => failed.push(format!("{name}: no end after {LIMIT:?}")),
        }
    }
    assert!(failed.is_empty(), "{language:?}:\n{}", failed.join("\n"));
}

/// Runs a client of this language, which prints a line for each case, against our server.
async fn serve_client(language: Language) {
    let server = InteropServer::start().await;
    let mut client = language.program("client");
    let output = client.arg(server.address()).output().await;
    let output = output.expect("`make setup` has installed what the clients need");
    let lines = String::from_utf8_lossy(&output.stdout);
    let passed = |name: &str| lines.lines().any(|line| line == format!("{name} ok"));
    let missing: Vec<_> = CASES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !passed(name))
        .collect();
    assert!(
        missing.is_empty() && output.status.success(),
        "{language:?} failed {missing:?}:\n{lines}"
    );
}

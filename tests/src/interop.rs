//! gRPC's interoperability contract, and its service as Weft's server offers it (`src/bin/hop`).
//!
//! The cases: <https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>.

mod echo_metadata;
mod service;

use std::sync::LazyLock;

pub use echo_metadata::EchoMetadata;
pub use service::Interop;

/// The generated types of `grpc.testing`.
pub mod testing {
    #![allow(clippy::all, missing_docs, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/grpc.testing.rs"));
}

use testing::test_service_server::TestServiceServer;

/// The encoded descriptors of `grpc.testing`, without its imports.
const TESTING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/interop.bin"));

/// The encoded descriptors of Weft's contract and of `grpc.testing`.
pub fn contract() -> &'static [u8] {
    // Encoded sets that follow each other are one set.
    static BOTH: LazyLock<Vec<u8>> = LazyLock::new(|| [proto::SCHEMA, TESTING].concat());
    &BOTH
}

/// The service with everything that the cases ask of a server without compression.
pub fn server() -> EchoMetadata<TestServiceServer<Interop>> {
    let server = TestServiceServer::new(Interop);
    EchoMetadata(server.max_decoding_message_size(chassis::server::NO_DECODING_LIMIT))
}

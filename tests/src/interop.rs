//! gRPC's interoperability contract, and its service behind the layers of `weft-server`.
//!
//! The cases: <https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>.

mod echo_metadata;
mod service;

use std::{net::SocketAddr, path::Path, sync::LazyLock, time::Duration};

pub use echo_metadata::EchoMetadata;
pub use service::Interop;

/// The generated types of `grpc.testing`.
pub mod testing {
    #![allow(clippy::all, missing_docs, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/grpc.testing.rs"));
}

use testing::test_service_server::TestServiceServer;
use tokio_util::sync::DropGuard;
use weft_server::{
    Server, health,
    server::{NO_DECODING_LIMIT, Settings},
};

use crate::eventually;

/// The encoded descriptors of `grpc.testing`, without its imports.
const TESTING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/interop.bin"));

/// The encoded descriptors of Weft's contract and of `grpc.testing`.
pub fn contract() -> &'static [u8] {
    // Encoded sets that follow each other are one set.
    static BOTH: LazyLock<Vec<u8>> = LazyLock::new(|| [proto::SCHEMA, TESTING].concat());
    &BOTH
}

/// A server with the layers of `weft-server` around [`Interop`], which stops when this is dropped.
pub struct InteropServer {
    address: SocketAddr,
    _stop: DropGuard,
}

impl InteropServer {
    /// Starts the server in this process, on a free port.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> InteropServer {
        let folder = tempfile::tempdir().expect("a folder for the addresses");
        let file = folder.path().join("addresses.json");
        let service = TestServiceServer::new(Interop).max_decoding_message_size(NO_DECODING_LIMIT);
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::new("interop")
            .contract(contract())
            .expect("the interoperability contract")
            .settings(Settings {
                listen: any_port,
                ..Settings::default()
            })
            .probe(health::Settings { listen: any_port })
            .address_file(file.clone())
            .service(EchoMetadata(service));
        let stop = server.lifecycle().shutdown.clone().drop_guard();
        tokio::spawn(async move { server.serve().await.expect("the server serves") });
        let address = eventually(Duration::from_secs(60), || async { grpc_address(&file) });
        InteropServer {
            address: address.await,
            _stop: stop,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

fn grpc_address(file: &Path) -> anyhow::Result<SocketAddr> {
    let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    Ok(addresses["grpc"].as_str().unwrap_or_default().parse()?)
}

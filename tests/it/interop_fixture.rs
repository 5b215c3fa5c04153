//! Fixture for gRPC's interoperability cases: the programs in `tests/foreign/interop`, and clients on the mesh.

use std::{process::Stdio, time::Duration};

use mesh::{Channel, ChannelOptions, Policies};
use tests::{
    interop::{
        self,
        testing::{
            test_service_client::TestServiceClient, unimplemented_service_client::UnimplementedServiceClient,
        },
    },
    workspace_root,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::interop_wire::Wire;

/// No case takes this long, however busy the machine is. Less than the timeout of the contract.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    Node,
}

impl Language {
    /// The program of this name (`client`, `server`).
    pub(crate) fn program(self, name: &str) -> Command {
        let root = workspace_root();
        let (interpreter, extension) = match self {
            Language::Python => (root.join(".tools/python/bin/python"), "py"),
            Language::Node => ("node".into(), "js"),
        };
        let mut command = Command::new(interpreter);
        command
            .arg(root.join(format!("tests/foreign/interop/{name}.{extension}")))
            .env("NODE_PATH", root.join(".tools/grpc-js/node_modules"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// A server of another maker, and a channel to it.
pub(crate) struct Peer {
    pub(crate) wire: Wire,
    /// Whether the server compresses what it is asked to compress.
    pub(crate) compresses: bool,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Peer {
    pub(crate) async fn start(language: Language) -> Peer {
        let mut process = language
            .program("server")
            .spawn()
            .expect("`make setup` has installed what the servers need");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port: u16 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        Peer {
            wire: Wire::new(channel(&format!("127.0.0.1:{port}"))),
            compresses: language == Language::Python,
            lines,
            _process: process,
        }
    }

    pub(crate) fn client(&self) -> TestServiceClient<Wire> {
        TestServiceClient::new(self.wire.clone())
    }

    pub(crate) fn unknown_client(&self) -> UnimplementedServiceClient<Wire> {
        UnimplementedServiceClient::new(self.wire.clone())
    }

    /// Waits for a line that the server prints.
    pub(crate) async fn prints(&mut self, expected: &str) -> anyhow::Result<()> {
        while let Some(line) = self.lines.next_line().await? {
            if line == expected {
                return Ok(());
            }
        }
        anyhow::bail!("the server ended without printing {expected:?}")
    }
}

/// A channel with the policies of the interoperability contract.
pub(crate) fn channel(address: &str) -> Channel {
    let policies = Policies::from_descriptors(interop::contract()).unwrap();
    let options = ChannelOptions::new(format!("static:http://{address}"), "interop", "tests");
    Channel::connect(options, &policies).unwrap()
}

//! The mesh's client against other gRPC servers with their default settings: gRPC's own for Python and Node.
//!
//! They count the pings of a client and close the connection after three that come too soon (gRFC A8).

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh::{Channel, ChannelOptions, Pings};
use proto::order::v1::{ListOrdersRequest, order_service_client::OrderServiceClient};
use tests::workspace_root;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    task::JoinSet,
};

use crate::mesh_fixture::policies;

#[derive(Clone, Copy, Debug)]
enum Language {
    Python,
    Node,
}

const LANGUAGES: [Language; 2] = [Language::Python, Language::Node];

#[tokio::test]
async fn a_call_of_ten_seconds_is_made_once_on_one_connection() {
    let both = LANGUAGES.map(|language| async move {
        let mut server = Server::start(language, 10).await;
        let relay = Relay::before(server.port).await;
        list(&channel(&relay, Pings::Announced)).await.unwrap();
        assert_eq!(server.calls().await, 1, "{language:?}");
        assert_eq!(relay.seen(), (1, 0), "{language:?}: connections and pings");
    });
    futures_util::future::join_all(both).await;
}

#[tokio::test]
#[ignore = "takes a minute and a half: `make load`"]
async fn an_idle_connection_stays_open() {
    let both = LANGUAGES.map(|language| async move {
        let server = Server::start(language, 0).await;
        let relay = Relay::before(server.port).await;
        let channel = channel(&relay, Pings::Announced);
        list(&channel).await.unwrap();
        tokio::time::sleep(Duration::from_secs(90)).await;
        list(&channel).await.unwrap();
        assert_eq!(relay.seen(), (1, 0), "{language:?}: connections and pings");
    });
    futures_util::future::join_all(both).await;
}

/// If pings are configured too often, the server reports it, and the channel reduces them.
#[tokio::test]
async fn after_too_many_pings_the_channel_pings_less_often() {
    let mut server = Server::start(Language::Python, 3).await;
    let relay = Relay::before(server.port).await;
    let channel = channel(&relay, Pings::Always);
    let mut failed = 0;
    while list(&channel).await.is_err() {
        failed += 1;
        assert!(failed < 5, "{:?}", relay.seen());
    }
    let (connections, pings) = relay.seen();
    assert!(
        connections > 1 && pings > 2,
        "the server has had enough: {connections}, {pings}"
    );
    for _ in 0..2 {
        list(&channel).await.unwrap();
    }
    assert_eq!(
        relay.seen(),
        (connections, pings),
        "no other connection, no other ping"
    );
    assert!(server.calls().await >= 3);
}

/// The pings are much more frequent than by default, so that three seconds suffice for too many.
fn channel(relay: &Relay, pings: Pings) -> Channel {
    let target = format!("static:http://127.0.0.1:{}", relay.port);
    let mut options = ChannelOptions::new(target, "order", "tests");
    options.tuning.pings = pings;
    if pings == Pings::Always {
        options.tuning.silence_ms = 100;
    }
    let name = r#"{"service": "order.v1.OrderService", "method": "ListOrders"}"#;
    let config = format!(r#"{{"methodConfig": [{{"name": [{name}], "timeout": "60s"}}]}}"#);
    options.tuning.service_config = Some(config);
    Channel::connect(options, policies()).unwrap()
}

async fn list(channel: &Channel) -> Result<(), tonic::Status> {
    let mut orders = OrderServiceClient::new(channel.clone());
    orders.list_orders(ListOrdersRequest::default()).await.map(drop)
}

struct Server {
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Server {
    /// Starts a server whose calls take this many seconds.
    async fn start(language: Language, seconds: u32) -> Server {
        let root = workspace_root();
        let (interpreter, file) = match language {
            Language::Python => (root.join(".tools/python/bin/python"), "server.py"),
            Language::Node => ("node".into(), "server.js"),
        };
        let mut process = Command::new(interpreter)
            .arg(root.join("tests/foreign").join(file))
            .arg(seconds.to_string())
            .env("NODE_PATH", root.join(".tools/grpc-js/node_modules"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("`make setup` has installed what the servers need");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        Server {
            port,
            lines,
            _process: process,
        }
    }

    /// Stops the server and returns its number of calls.
    async fn calls(&mut self) -> usize {
        self._process.start_kill().unwrap();
        let mut calls = 0;
        while let Ok(Some(_)) = self.lines.next_line().await {
            calls += 1;
        }
        calls
    }
}

/// A TCP relay that counts the connections and the pings of clients.
struct Relay {
    port: u16,
    connections: Arc<AtomicUsize>,
    pings: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn before(server: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, pings) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        let (counted, seen) = (Arc::clone(&connections), Arc::clone(&pings));
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                relays.spawn(relay(client, server, Arc::clone(&seen)));
            }
        });
        Relay {
            port,
            connections,
            pings,
            _tasks: tasks,
        }
    }

    /// Number of connections and pings so far.
    fn seen(&self) -> (usize, usize) {
        (
            self.connections.load(Ordering::SeqCst),
            self.pings.load(Ordering::SeqCst),
        )
    }
}

/// Forwards bytes both ways until one side closes.
async fn relay(client: TcpStream, server: u16, pings: Arc<AtomicUsize>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::io::copy(&mut from_server, &mut to_client);
    let forth = async {
        let (mut bytes, mut unread) = (vec![0; 16 * 1024], Vec::new());
        let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
        while let Ok(count) = from_client.read(&mut bytes).await
            && count > 0
        {
            let after_preface = &bytes[preface.min(count)..count];
            preface -= preface.min(count);
            unread.extend_from_slice(after_preface);
            pings.fetch_add(take_pings(&mut unread), Ordering::SeqCst);
            if to_server.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = back => {}
        () = forth => {}
    }
}

/// Removes complete frames from the bytes and returns the number of pings, without ping acknowledgements.
fn take_pings(bytes: &mut Vec<u8>) -> usize {
    const HEADER: usize = 9;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    let mut pings = 0;
    while bytes.len() >= HEADER {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if bytes.len() < HEADER + length {
            break;
        }
        pings += usize::from(bytes[3] == PING && bytes[4] & ACK == 0);
        bytes.drain(..HEADER + length);
    }
    pings
}

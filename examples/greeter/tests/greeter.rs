//! The example's programs as processes, and a client of theirs: what a project outside Weft can rely on.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use greeter::{DESCRIPTORS, SayHelloRequest, SayHelloResponse, greeter_service_client::GreeterServiceClient};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustix::process::{Pid, Signal, kill_process};
use tonic::{Code, Status};
use weft_mesh::{CallPolicy, Channel, ChannelBuilder, Tls, policy::Retry};

/// No call takes this long, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_programs_of_the_example_greet() {
    let servers = [Server::start(None), Server::start(None)];
    connected(&channel(&servers)).await;
    let ports = servers.iter().map(|server| server.port.to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_client"))
        .args(ports)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = text(&output);
    for name in ["Amal", "Bilal", "Chaya"] {
        assert!(
            printed.contains(&format!("Hello {name} (from port ")),
            "{printed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_and_a_rolling_restart_fail_no_call() {
    let mut servers = [Server::start(None), Server::start(None), Server::start(None)];
    let channel = channel(&servers);
    connected(&channel).await;
    let calls = Calls::begin(&channel);
    calls.more().await;
    servers[0].stop(Signal::KILL);
    calls.more().await;
    servers[0].restart();
    for server in &mut servers[1..] {
        calls.more().await;
        server.stop(Signal::TERM);
        calls.more().await;
        server.restart();
    }
    calls.more().await;
    let ports = calls.end().await;
    assert!(ports.len() > 1, "balanced: {ports:?}");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let servers = [Server::start(None)];
    let channel = builder(&servers)
        .policy(
            "greeter.v1.GreeterService/SayHello",
            CallPolicy::new().timeout(LIMIT).wait_for_ready(true),
        )
        .connect()
        .unwrap();
    connected(&channel).await;
    let mut request = tonic::Request::new(SayHelloRequest {
        name: "Amal".to_owned(),
        work_ms: 120_000,
    });
    request.set_timeout(Duration::from_millis(300));
    let status = GreeterServiceClient::new(channel)
        .say_hello(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test]
async fn mutual_tls_admits_only_clients_with_a_certificate() {
    let authority = Authority::new();
    let (server, client) = (authority.folder("server"), authority.folder("client"));
    let servers = [Server::start(Some(server.path()))];
    let target = format!("static:https://127.0.0.1:{}", servers[0].port);
    let file = |name| client.path().join(name);
    let ids = vec!["spiffe://example.org/server".to_owned()];
    let channel = Channel::builder(target)
        .policy("*", patient())
        .tls(Tls::spiffe(
            file("ca.pem"),
            file("cert.pem"),
            file("key.pem"),
            ids,
        ))
        .connect()
        .unwrap();
    connected(&channel).await;
    let plaintext = builder(&servers)
        .policy("*", CallPolicy::new().timeout(LIMIT))
        .connect()
        .unwrap();
    let status = say_hello(&plaintext).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

fn builder(servers: &[Server]) -> ChannelBuilder {
    let endpoints: Vec<_> = servers
        .iter()
        .map(|server| format!("http://127.0.0.1:{}", server.port))
        .collect();
    Channel::builder(format!("static:{}", endpoints.join(","))).contract(DESCRIPTORS)
}

/// Retries, and waits for servers that are starting.
fn patient() -> CallPolicy {
    CallPolicy::new()
        .timeout(LIMIT)
        .retry(Retry::new(5))
        .wait_for_ready(true)
}

fn channel(servers: &[Server]) -> Channel {
    builder(servers).policy("*", patient()).connect().unwrap()
}

async fn say_hello(channel: &Channel) -> Result<SayHelloResponse, Status> {
    let request = SayHelloRequest {
        name: "Amal".to_owned(),
        work_ms: 1,
    };
    let response = GreeterServiceClient::new(channel.clone())
        .say_hello(request)
        .await?;
    Ok(response.into_inner())
}

/// Waits until every endpoint is connected.
async fn connected(channel: &Channel) {
    loop {
        say_hello(channel).await.unwrap();
        if channel
            .snapshot()
            .endpoints
            .iter()
            .all(|endpoint| endpoint.connected)
        {
            return;
        }
    }
}

/// Calls that go on until they are ended; the first that fails ends the test.
struct Calls {
    answered: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<BTreeSet<u32>>>,
}

impl Calls {
    fn begin(channel: &Channel) -> Calls {
        let (answered, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let caller = |_| {
            let (channel, answered, ended) = (channel.clone(), answered.clone(), ended.clone());
            tokio::spawn(async move {
                let mut ports = BTreeSet::new();
                while !ended.load(Ordering::Relaxed) {
                    ports.insert(say_hello(&channel).await.unwrap().port);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                ports
            })
        };
        Calls {
            callers: (0..8).map(caller).collect(),
            answered,
            ended,
        }
    }

    /// Waits for 100 more responses.
    async fn more(&self) {
        let goal = self.answered.load(Ordering::Relaxed) + 100;
        while self.answered.load(Ordering::Relaxed) < goal {
            let failed = self.callers.iter().any(tokio::task::JoinHandle::is_finished);
            assert!(!failed, "a call has failed");
            tokio::task::yield_now().await;
        }
    }

    /// The ports that answered.
    async fn end(self) -> BTreeSet<u32> {
        self.ended.store(true, Ordering::Relaxed);
        let mut ports = BTreeSet::new();
        for caller in self.callers {
            ports.extend(caller.await.unwrap());
        }
        ports
    }
}

/// A server process, killed when this is dropped.
struct Server {
    port: u16,
    tls: Option<std::path::PathBuf>,
    process: Child,
}

impl Server {
    fn start(tls: Option<&Path>) -> Server {
        let port = free_port();
        Server {
            port,
            tls: tls.map(Path::to_owned),
            process: spawn(port, tls),
        }
    }

    fn stop(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let status = self.process.wait().unwrap();
        assert!(signal == Signal::KILL || status.success(), "{status}");
    }

    fn restart(&mut self) {
        self.process = spawn(self.port, self.tls.as_deref());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16, tls: Option<&Path>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.arg(port.to_string()).stdin(Stdio::null());
    if let Some(folder) = tls {
        command.env("TLS_FOLDER", folder);
    }
    command.spawn().unwrap()
}

/// A free port that is followed by another one. Ports of one test run are not handed out again.
fn free_port() -> u16 {
    static TAKEN: std::sync::Mutex<BTreeSet<u16>> = std::sync::Mutex::new(BTreeSet::new());
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let next = TcpListener::bind(("127.0.0.1", port.saturating_add(1)));
        let mut taken = TAKEN.lock().unwrap();
        if next.is_ok() && !taken.contains(&port) && !taken.contains(&(port + 1)) {
            taken.extend([port, port + 1]);
            return port;
        }
    }
}

/// An authority of a test.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// A folder with the certificate of `spiffe://example.org/NAME`.
    fn folder(&self, name: &str) -> tempfile::TempDir {
        let mut params = CertificateParams::default();
        let id = format!("spiffe://example.org/{name}");
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("ca.pem", self.certificate.clone()),
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(folder.path().join(file), content).unwrap();
        }
        folder
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

//! A service process with behaviour set by a test: the chassis's server with all its layers around handlers that
//! work for a while, refuse, or call the next process of the same kind (`src/bin/hop`).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{ChildStderr, ExitStatus},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{Issuer, port, service::Instance, token, watchdog};

/// Response header with the address of the hop that answered.
pub const ANSWERED_BY: &str = "answered-by";

/// Behaviour of a hop's handlers. By default they answer at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behavior {
    /// Duration of each call's work. Milliseconds.
    pub work_ms: u64,
    /// Calls that are worked on concurrently; the others wait. 0 is unlimited.
    pub max_concurrent: usize,
    /// Whether every call is answered UNAVAILABLE at once.
    pub refuse: bool,
    /// Whether every call makes its handler panic.
    pub panic: bool,
}

/// Statistics of a hop since its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Calls that reached the handlers.
    pub started: u64,
    /// Those among them that were marked as retries (`grpc-previous-rpc-attempts`).
    pub retried: u64,
    /// Calls that were dropped before their work ended.
    pub cancelled: u64,
    /// Total work time of the other calls, without the wait for a slot. Microseconds.
    pub worked_us: u64,
    /// Calls that finished their work.
    pub finished: u64,
    /// Remaining time at the start of the work, of the latest calls. Microseconds.
    pub remaining_us: Vec<u64>,
    /// Time between the deadline and the drop of the work, negative if it was dropped before, of the latest calls.
    /// Microseconds.
    pub late_us: Vec<i64>,
}

/// Shared by several hops: a folder and the trusted issuer.
#[derive(Debug)]
pub struct Hops {
    program: PathBuf,
    issuer: Issuer,
    folder: TempDir,
}

impl Hops {
    /// Prepares a group without hops. `program` is the built `hop`.
    ///
    /// # Panics
    /// When the temp dir is not writable.
    pub fn new(program: &str) -> Hops {
        let folder = tempfile::Builder::new()
            .prefix("weft-hops-")
            .tempdir()
            .expect("the temp dir is writable");
        watchdog::remove(folder.path());
        Hops {
            program: PathBuf::from(program),
            issuer: Issuer::create(folder.path()),
            folder,
        }
    }

    /// Starts a hop with additional settings by dotted name, and waits until it serves.
    pub async fn start(&self, settings: &[(&str, &str)]) -> Hop {
        self.start_in(&BTreeMap::new(), settings).await
    }

    /// Starts a hop with environment variables too (`OTEL_…`).
    pub async fn start_in(&self, environment: &BTreeMap<String, String>, settings: &[(&str, &str)]) -> Hop {
        let hop = self.prepare(environment, settings);
        hop.restart().await;
        hop
    }

    /// Starts a hop with its log in a pipe that only the caller reads.
    pub async fn start_piped(
        &self,
        environment: &BTreeMap<String, String>,
        settings: &[(&str, &str)],
    ) -> (Hop, ChildStderr) {
        let hop = self.prepare(environment, settings);
        let log = hop.instance.spawn_piped();
        hop.instance.serving("startup").await;
        (hop, log)
    }

    fn prepare(&self, environment: &BTreeMap<String, String>, settings: &[(&str, &str)]) -> Hop {
        let control = port::free();
        let log = self.folder.path().join(format!("hop-{control}.log"));
        let mut instance = Instance::new("hop", self.program.clone(), log.clone());
        instance.environment(environment);
        instance.set("control", format!("127.0.0.1:{control}"));
        instance.set("auth.issuer", token::ISSUER);
        instance.set("auth.audience", token::AUDIENCE);
        instance.set("auth.jwks_file", self.issuer.jwks_file().to_string_lossy());
        for (name, value) in settings {
            instance.set(name, *value);
        }
        Hop {
            instance,
            control,
            log,
        }
    }

    /// The token of an administrator.
    pub fn bearer(&self) -> Arc<str> {
        Arc::from(self.issuer.token("al-noor", &["admin"]).as_str())
    }

    /// A folder for files of the test, removed with the hops.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// One process. Its ports stay the same over restarts.
#[derive(Debug)]
pub struct Hop {
    instance: Instance,
    control: u16,
    log: PathBuf,
}

impl Hop {
    /// gRPC address: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.instance.grpc)
    }

    /// Probe address: `127.0.0.1:PORT`.
    pub fn probe_address(&self) -> String {
        format!("127.0.0.1:{}", self.instance.probe)
    }

    /// Checks its liveness on the probe port, as a kubelet does.
    ///
    /// # Errors
    /// The call's status.
    pub async fn check_liveness(&self) -> Result<(), tonic::Status> {
        self.instance.health("liveness").await.map(drop)
    }

    /// Changes the behaviour of its handlers from the next call on.
    pub async fn set_behavior(&self, behavior: Behavior) {
        self.send(&behavior).await;
    }

    /// Its statistics since the start.
    pub async fn stats(&self) -> Stats {
        self.send(&()).await
    }

    /// Kills it with SIGKILL, as in a crash.
    pub fn kill9(&self) {
        self.instance.kill9();
    }

    /// Sends SIGTERM and waits until it has drained.
    pub async fn stop(&self) -> ExitStatus {
        self.instance.stop().await
    }

    /// Starts or restarts it, and waits until it serves. Behaviour and statistics are reset.
    pub async fn restart(&self) {
        self.instance.kill9();
        self.instance.spawn();
        self.instance.serving("startup").await;
    }

    /// Its anonymous memory, without mapped files. KiB.
    ///
    /// # Panics
    /// When it is not running.
    pub fn memory_kib(&self) -> u64 {
        let pid = self.instance.pid().expect("it was started");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is running");
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = anonymous.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.expect("Linux reports it in KiB")
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends one line of JSON to the control port and reads one line back.
    async fn send(&self, message: &impl Serialize) -> Stats {
        let reply: io::Result<Stats> = async {
            let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.control)).await?);
            let mut line = serde_json::to_string(message)?;
            line.push('\n');
            stream.write_all(line.as_bytes()).await?;
            line.clear();
            stream.read_line(&mut line).await?;
            Ok(serde_json::from_str(&line)?)
        }
        .await;
        reply.unwrap_or_else(|error| panic!("no reply from a hop: {error}\n{}", self.instance.log()))
    }
}

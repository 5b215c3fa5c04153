//! A service process that does as a test tells it: the chassis's server, with all its layers, around handlers that
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

/// The header of an answer that names the hop by its address.
pub const ANSWERED_BY: &str = "answered-by";

/// What a hop's handlers do. By default they answer at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behavior {
    /// How long each call is worked on. Milliseconds.
    pub work_ms: u64,
    /// How many calls are worked on at once, the others wait for their turn; 0 is without bound.
    pub max_concurrent: usize,
    /// Whether every call is answered UNAVAILABLE at once.
    pub refuse: bool,
    /// Whether every call makes its handler panic.
    pub panic: bool,
}

/// What a hop has seen since it was started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Calls that reached the handlers.
    pub started: u64,
    /// Those among them that said they were a repetition (`grpc-previous-rpc-attempts`).
    pub retried: u64,
    /// Calls whose work was dropped before its end.
    pub cancelled: u64,
    /// How long the others were worked on, in all, without the wait for their turn. Microseconds.
    pub worked_us: u64,
    /// Calls that were worked on to the end.
    pub finished: u64,
    /// The time that was left when work began, of the latest calls. Microseconds.
    pub remaining_us: Vec<u64>,
    /// How long after its deadline work was dropped, negative for before, of the latest calls. Microseconds.
    pub late_us: Vec<i64>,
}

/// What several hops have in common: a folder, and whom they believe.
#[derive(Debug)]
pub struct Hops {
    program: PathBuf,
    issuer: Issuer,
    folder: TempDir,
}

impl Hops {
    /// None yet. `program` is the built `hop`.
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

    /// Starts one, with settings by their dotted names beside those that it needs, and waits until it serves.
    pub async fn start(&self, settings: &[(&str, &str)]) -> Hop {
        self.start_in(&BTreeMap::new(), settings).await
    }

    /// The same, with environment variables (`OTEL_…`).
    pub async fn start_in(&self, environment: &BTreeMap<String, String>, settings: &[(&str, &str)]) -> Hop {
        let hop = self.prepare(environment, settings);
        hop.restart().await;
        hop
    }

    /// The same, with its log in a pipe that nobody reads unless the caller does.
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

    /// The token of a person who may do everything.
    pub fn bearer(&self) -> Arc<str> {
        Arc::from(self.issuer.token("al-noor", &["admin"]).as_str())
    }

    /// A folder for the test's own files; gone with the hops.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// One process. Its ports stay the same over its restarts.
#[derive(Debug)]
pub struct Hop {
    instance: Instance,
    control: u16,
    log: PathBuf,
}

impl Hop {
    /// Where it takes calls: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.instance.grpc)
    }

    /// Where it answers probes: `127.0.0.1:PORT`.
    pub fn probe_address(&self) -> String {
        format!("127.0.0.1:{}", self.instance.probe)
    }

    /// Asks its probe port whether it lives, as a kubelet does.
    ///
    /// # Errors
    /// The call's status.
    pub async fn check_liveness(&self) -> Result<(), tonic::Status> {
        self.instance.health("liveness").await.map(drop)
    }

    /// Has its handlers do something else from the next call on.
    pub async fn set_behavior(&self, behavior: Behavior) {
        self.send(&behavior).await;
    }

    /// What it has seen.
    pub async fn stats(&self) -> Stats {
        self.send(&()).await
    }

    /// Kills it as a crash would.
    pub fn kill9(&self) {
        self.instance.kill9();
    }

    /// Sends SIGTERM and waits until it has drained.
    pub async fn stop(&self) -> ExitStatus {
        self.instance.stop().await
    }

    /// Starts it (again), and waits until it serves. Its orders and its stats are new.
    pub async fn restart(&self) {
        self.instance.kill9();
        self.instance.spawn();
        self.instance.serving("startup").await;
    }

    /// The memory that it has made its own, without what it has mapped from files. KiB.
    ///
    /// # Panics
    /// When it is not running.
    pub fn memory_kib(&self) -> u64 {
        let pid = self.instance.pid().expect("it was started");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is running");
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = anonymous.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.expect("Linux tells it in KiB")
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// One line there, one line back, as JSON.
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
        reply.unwrap_or_else(|error| panic!("no message from a hop: {error}\n{}", self.instance.log()))
    }
}

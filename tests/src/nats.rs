//! A NATS server with JetStream for one test.

use std::{fs, path::Path, process::Command, sync::Mutex, time::Duration};

use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{binaries, eventually, process::Process, watchdog};

/// Separates the base configuration from the lines that a test has added.
const ADDED: &str = "# added\n";

const START: Duration = Duration::from_secs(20);

/// A NATS server with JetStream that syncs every write, as in production. It keeps its ports and data over a
/// restart.
#[derive(Debug)]
pub struct Nats {
    folder: TempDir,
    ports: Ports,
    process: Mutex<Process>,
}

#[derive(Clone, Debug, Deserialize)]
struct Ports {
    nats: Vec<String>,
    monitoring: Vec<String>,
}

impl Nats {
    /// Starts a server on free ports.
    ///
    /// # Panics
    /// When it is not up within 20 s; the message ends with its log.
    pub async fn start() -> Nats {
        Self::start_with("").await
    }

    /// Starts a server on which publishing to a subject is forbidden.
    ///
    /// # Panics
    /// As [`Nats::start`].
    pub async fn forbidding(subject: &str) -> Nats {
        Self::start_with(&forbidden(subject)).await
    }

    async fn start_with(lines: &str) -> Nats {
        let folder = tempfile::Builder::new()
            .prefix("weft-nats-")
            .tempdir()
            .expect("the temp dir is writable");
        watchdog::remove(folder.path());
        let mut process = spawn(folder.path(), "127.0.0.1:-1", "127.0.0.1:-1", lines);
        let ports = ports(folder.path(), &mut process).await;
        Nats {
            folder,
            ports,
            process: Mutex::new(process),
        }
    }

    /// Client URL: `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.ports.nats[0]
    }

    /// Client address without the scheme: `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        address(self.url())
    }

    /// Address of its monitoring pages, without the scheme.
    pub fn monitoring_address(&self) -> &str {
        address(self.monitoring_url())
    }

    /// Base URL of its monitoring pages (`/jsz`, `/varz`): `http://127.0.0.1:PORT`.
    pub fn monitoring_url(&self) -> &str {
        &self.ports.monitoring[0]
    }

    /// Connects a client.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url())
            .await
            .expect("the server answered when it started")
    }

    /// Kills it with SIGKILL, as in a crash.
    pub fn kill9(&self) {
        self.lock().kill9();
    }

    /// Stops it gracefully.
    pub async fn stop(&self) {
        self.lock().signal(Signal::TERM);
        eventually(Duration::from_secs(10), || async { self.lock().ended() }).await;
    }

    /// Restarts it on the same ports and data, and waits until it accepts connections.
    pub async fn restart(&self) {
        let (listen, monitoring) = (self.address(), self.monitoring_address());
        self.lock().kill9();
        let mut process = spawn(self.folder.path(), listen, monitoring, "");
        ports(self.folder.path(), &mut process).await;
        *self.lock() = process;
    }

    /// Restarts it with the same data on new ports.
    pub async fn restart_elsewhere(&mut self) {
        self.lock().kill9();
        let mut process = spawn(self.folder.path(), "127.0.0.1:-1", "127.0.0.1:-1", "");
        self.ports = ports(self.folder.path(), &mut process).await;
        *self.lock() = process;
    }

    /// Deletes everything that a killed server had stored.
    pub fn wipe(&self) {
        fs::remove_dir_all(self.folder.path().join("jetstream")).expect("the folder is the test's own");
    }

    /// Changes the maximum message size without a restart.
    pub async fn set_max_payload(&self, bytes: usize) {
        self.reload(&format!("max_payload: {bytes}\n")).await;
    }

    /// Forbids another subject, without a restart, on a server that [`Nats::forbidding`] has started. Connections
    /// are closed for it and reconnect.
    pub async fn forbid_publishing(&self, subject: &str) {
        self.reload(&forbidden(subject)).await;
    }

    /// Adds lines to its configuration in place of those added before, and reloads it.
    async fn reload(&self, lines: &str) {
        let file = self.folder.path().join("nats.conf");
        let now = fs::read_to_string(&file).expect("the folder is the test's own");
        // The rest must not change: a server refuses a reload that would change its ports.
        let base = now.split(ADDED).next().unwrap_or_default();
        fs::write(&file, format!("{base}{ADDED}{lines}")).expect("the folder is the test's own");
        let before = self.config_load_time().await;
        self.lock().signal(Signal::HUP);
        eventually(START, || async {
            let now = self.config_load_time().await;
            if now == before {
                Err("the configuration is not read again".to_owned())
            } else {
                Ok(())
            }
        })
        .await;
    }

    async fn config_load_time(&self) -> String {
        let mut stream = TcpStream::connect(self.monitoring_address())
            .await
            .expect("the server listens");
        stream
            .write_all(b"GET /varz HTTP/1.0\r\n\r\n")
            .await
            .expect("the server listens");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("the server answers");
        let (_, rest) = answer
            .split_once("\"config_load_time\": \"")
            .expect("the page has it");
        rest.split('"').next().unwrap_or_default().to_owned()
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.lock().tail()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Process> {
        self.process
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn forbidden(subject: &str) -> String {
    let user = format!("{{user: any, password: any, permissions: {{publish: {{deny: [\"{subject}\"]}}}}}}");
    format!("authorization {{ users = [{user}] }}\nno_auth_user: any\n")
}

fn spawn(folder: &Path, listen: &str, monitoring: &str, lines: &str) -> Process {
    let config = configuration(folder, listen, monitoring) + ADDED + lines;
    let file = folder.join("nats.conf");
    fs::write(&file, config).expect("the folder is the test's own");
    let mut command = Command::new(binaries::tool("nats-server"));
    command.arg("-c").arg(&file);
    Process::spawn("nats-server", &mut command, &folder.join("nats.log"), "KILL")
}

fn configuration(folder: &Path, listen: &str, monitoring: &str) -> String {
    let store = folder.join("jetstream");
    format!(
        "listen: \"{listen}\"\nhttp: \"{monitoring}\"\nports_file_dir: \"{folder}\"\n\
         jetstream {{ store_dir: \"{store}\", sync_interval: always, max_mem: 256MB, max_file: 4GB }}\n",
        folder = folder.display(),
        store = store.display(),
    )
}

/// The server writes its ports once it listens, into a file named after its process id.
async fn ports(folder: &Path, process: &mut Process) -> Ports {
    let file = folder.join(format!("nats-server_{}.ports", process.id()));
    let ports = eventually(START, || {
        let ended = process.ended();
        assert!(ended.is_none(), "nats-server ended at once\n{}", process.tail());
        let ports = fs::read(&file).map_err(anyhow::Error::from);
        let ports = ports.and_then(|json| Ok(serde_json::from_slice::<Ports>(&json)?));
        async move { ports }
    })
    .await;
    eventually(START, || async { async_nats::connect(&ports.nats[0]).await }).await;
    ports
}

fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}

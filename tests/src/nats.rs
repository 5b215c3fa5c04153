//! A NATS server of a test's own, with JetStream.

use std::{fs, path::Path, process::Command, sync::Mutex, time::Duration};

use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::{binaries, eventually, process::Process, watchdog};

const START: Duration = Duration::from_secs(20);

/// A NATS server with JetStream that syncs every write, as production does. It keeps its ports and its data over
/// a restart.
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
    /// Starts one on ports of its own choice.
    ///
    /// # Panics
    /// When it is not up within 20 s; the message ends with its log.
    pub async fn start() -> Nats {
        let folder = tempfile::Builder::new()
            .prefix("weft-nats-")
            .tempdir()
            .expect("the temp dir is writable");
        watchdog::remove(folder.path());
        let mut process = spawn(folder.path(), "127.0.0.1:-1", "127.0.0.1:-1");
        let ports = ports(folder.path(), &mut process).await;
        Nats {
            folder,
            ports,
            process: Mutex::new(process),
        }
    }

    /// Where clients connect: `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.ports.nats[0]
    }

    /// Where it listens, without the scheme: `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        address(self.url())
    }

    /// Where its monitoring pages are, without the scheme.
    pub fn monitoring_address(&self) -> &str {
        address(self.monitoring_url())
    }

    /// The base of its monitoring pages (`/jsz`, `/varz`): `http://127.0.0.1:PORT`.
    pub fn monitoring_url(&self) -> &str {
        &self.ports.monitoring[0]
    }

    /// A client of it.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url())
            .await
            .expect("the server answered when it started")
    }

    /// Kills it as a crash would.
    pub fn kill9(&self) {
        self.lock().kill9();
    }

    /// Stops it in order.
    pub async fn stop(&self) {
        self.lock().signal(Signal::TERM);
        eventually(Duration::from_secs(10), || async { self.lock().ended() }).await;
    }

    /// Starts it again, on the same ports and data, and waits until it answers.
    pub async fn restart(&self) {
        let (listen, monitoring) = (self.address(), self.monitoring_address());
        self.lock().kill9();
        let mut process = spawn(self.folder.path(), listen, monitoring);
        ports(self.folder.path(), &mut process).await;
        *self.lock() = process;
    }

    /// Starts it again with the same data, on ports that nobody knows yet.
    pub async fn restart_elsewhere(&mut self) {
        self.lock().kill9();
        let mut process = spawn(self.folder.path(), "127.0.0.1:-1", "127.0.0.1:-1");
        self.ports = ports(self.folder.path(), &mut process).await;
        *self.lock() = process;
    }

    /// Throws away everything that a killed server had stored.
    pub fn wipe(&self) {
        fs::remove_dir_all(self.folder.path().join("jetstream")).expect("the folder is the test's own");
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

fn spawn(folder: &Path, listen: &str, monitoring: &str) -> Process {
    let store = folder.join("jetstream");
    let config = format!(
        "listen: \"{listen}\"\nhttp: \"{monitoring}\"\nports_file_dir: \"{folder}\"\n\
         jetstream {{ store_dir: \"{store}\", sync_interval: always, max_mem: 256MB, max_file: 4GB }}\n",
        folder = folder.display(),
        store = store.display(),
    );
    let file = folder.join("nats.conf");
    fs::write(&file, config).expect("the folder is the test's own");
    let mut command = Command::new(binaries::tool("nats-server"));
    command.arg("-c").arg(&file);
    Process::spawn("nats-server", &mut command, &folder.join("nats.log"), "KILL")
}

/// The server writes its ports once it listens, into a file that carries its process number.
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

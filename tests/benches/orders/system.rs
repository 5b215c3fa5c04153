//! A system that `weft up` runs: it is started fresh, checked for durability, and stopped.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Executor as _, PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tests::{SqlCounters, sql_counters, watchdog};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::release::Release;

const START: Duration = Duration::from_secs(180);
const STOP: Duration = Duration::from_secs(90);
const SERVICES: [&str; 3] = ["order", "payment", "claims"];
/// The role that owns the server.
const SUPERUSER: &str = "weft";

/// A running system. Dropping it kills it.
pub(crate) struct System {
    pub(crate) release: Release,
    home: PathBuf,
    weft: Child,
    /// The order service: `http://127.0.0.1:PORT`.
    pub(crate) order_url: String,
    monitor_port: u16,
    /// A superuser's pool for each service's database.
    pub(crate) databases: BTreeMap<String, PgPool>,
    /// The settings on which durability depends, as the servers report them.
    pub(crate) settings: BTreeMap<String, String>,
    keep: bool,
}

impl System {
    /// Starts one in a new folder below `parent`.
    ///
    /// # Errors
    /// When it does not start, or when it could lose acknowledged data.
    pub(crate) async fn start(release: &Release, parent: &Path, keep: bool) -> anyhow::Result<System> {
        let home = parent.join(format!("weft-bench-{}-{}", std::process::id(), release.name));
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        // PostgreSQL may run as another user, who must be able to traverse the folder.
        fs::create_dir(&home)?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o711))?;
        if !keep {
            watchdog::remove(&home);
        }
        // The first start creates the data folder, which must contain the setting before the second start.
        stop(&mut up(release, &home).await?).await?;
        let mut settings = OpenOptions::new()
            .append(true)
            .open(home.join("postgres/postgresql.auto.conf"))?;
        for setting in sql_counters::SETTINGS {
            let (name, value) = setting.split_once('=').context("a setting is name=value")?;
            writeln!(settings, "{name} = '{value}'")?;
        }
        let weft = up(release, &home).await?;
        let (description, ports) = (
            json(&home.join("weft.json"))?,
            json(&home.join("config/ports.json"))?,
        );
        let port = |name: &str| ports[name].as_u64().and_then(|port| u16::try_from(port).ok());
        let monitor_port = port("nats monitor").context("ports.json does not name NATS' monitor")?;
        let databases = databases(
            &home,
            port("postgresql").context("ports.json does not name PostgreSQL")?,
        )?;
        SqlCounters::prepare(&databases).await?;
        let mut system = System {
            release: release.clone(),
            weft,
            order_url: description["services"]["order"]["url"]
                .as_str()
                .context("weft.json does not name the order service")?
                .to_owned(),
            monitor_port,
            databases,
            settings: BTreeMap::new(),
            keep,
            home,
        };
        system.require_durability().await?;
        Ok(system)
    }

    /// A token of a clerk of the facility.
    pub(crate) fn token(&self, facility: &str) -> anyhow::Result<String> {
        let mut command = self.release.weft(&self.home);
        let output = command
            .args(["--facility", facility, "token", "--role", "clerk", "--ttl", "12h"])
            .output()?;
        ensure!(
            output.status.success(),
            "weft token: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A page of NATS' monitor, such as `/varz`.
    pub(crate) async fn monitor(&self, page: &str) -> anyhow::Result<Value> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.monitor_port)).await?;
        let request = format!("GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        let body = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .context("NATS' monitor does not answer in HTTP")?;
        serde_json::from_slice(&answer[body + 4..])
            .with_context(|| format!("NATS' monitor answers {page} without JSON"))
    }

    /// The processes by name: the services, the servers and their supervisor.
    pub(crate) fn processes(&self) -> anyhow::Result<BTreeMap<String, u32>> {
        let mut processes = BTreeMap::from([("weft".to_owned(), self.weft.id())]);
        for entry in fs::read_dir(self.home.join("run"))?.flatten() {
            let path = entry.path();
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            processes.insert(name, fs::read_to_string(&path)?.trim().parse()?);
        }
        Ok(processes)
    }

    /// Stops it gracefully and removes its folder.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for pool in self.databases.values() {
            pool.close().await;
        }
        stop(&mut self.weft).await?;
        if self.keep {
            println!("kept: {}", self.home.display());
        } else {
            fs::remove_dir_all(&self.home)?;
        }
        Ok(())
    }

    /// Checks, with the services' own view of the servers, that acknowledged data is on disk.
    async fn require_durability(&mut self) -> anyhow::Result<()> {
        let passwords = json(&self.home.join("config/postgres.json"))?;
        for (service, pool) in &self.databases {
            let role = format!("{service}_app");
            let options = PgConnectOptions::clone(&pool.connect_options())
                .username(&role)
                .password(passwords[&role].as_str().context("the role has a password")?);
            let mut session = options.connect().await?;
            for name in ["fsync", "full_page_writes", "synchronous_commit"] {
                let show = format!("show {name}");
                let value: String = session.fetch_one(AssertSqlSafe(show)).await?.try_get(0)?;
                ensure!(
                    value == "on",
                    "PostgreSQL has {name} = {value} for {role}: figures are only worth something with `on`"
                );
                self.settings.insert(name.to_owned(), value);
            }
            for name in ["server_version", "shared_buffers", "max_wal_size"] {
                let show = format!("show {name}");
                let value = session.fetch_one(AssertSqlSafe(show)).await?.try_get(0)?;
                self.settings.insert(name.to_owned(), value);
            }
        }
        let varz = self.monitor("/varz").await?;
        ensure!(
            varz["jetstream"]["config"]["sync_always"] == true,
            "NATS has not sync_interval: always"
        );
        self.settings
            .insert("nats.sync_interval".to_owned(), "always".to_owned());
        let version = varz["version"].as_str().unwrap_or_default().to_owned();
        self.settings.insert("nats.version".to_owned(), version);
        Ok(())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Ok(None) = self.weft.try_wait() {
            // On SIGTERM it stops its processes; on SIGKILL it leaves that to its watchdogs.
            let _ = kill_process(Pid::from_child(&self.weft), Signal::TERM);
            let began = Instant::now();
            while let Ok(None) = self.weft.try_wait()
                && began.elapsed() < STOP
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = self.weft.kill();
        }
        watchdog::forget(self.weft.id());
    }
}

/// Starts `weft up` and waits until all is ready.
async fn up(release: &Release, home: &Path) -> anyhow::Result<Child> {
    let log = home.join("bench-up.log");
    let output = File::create(&log)?;
    let mut command = release.weft(home);
    let mut weft = command
        .args(["up", "--free-ports"])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("weft cannot be started")?;
    watchdog::watch("TERM", weft.id());
    let began = Instant::now();
    while !home.join("weft.json").exists() {
        let ended = weft.try_wait()?;
        if ended.is_some() || began.elapsed() > START {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let _ = weft.kill();
            bail!("`weft up` did not become ready ({ended:?}):\n{said}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(weft)
}

async fn stop(weft: &mut Child) -> anyhow::Result<()> {
    kill_process(Pid::from_child(weft), Signal::TERM)?;
    let began = Instant::now();
    while weft.try_wait()?.is_none() {
        ensure!(began.elapsed() < STOP, "`weft up` does not stop");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    watchdog::forget(weft.id());
    Ok(())
}

fn databases(home: &Path, port: u16) -> anyhow::Result<BTreeMap<String, PgPool>> {
    let passwords = json(&home.join("config/postgres.json"))?;
    let password = passwords[SUPERUSER]
        .as_str()
        .context("the superuser has a password")?;
    let mut databases = BTreeMap::new();
    for service in SERVICES {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(SUPERUSER)
            .password(password)
            .database(service)
            .disable_statement_logging();
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        databases.insert(service.to_owned(), pool);
    }
    Ok(databases)
}

fn json(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}", path.display()))
}

//! A PostgreSQL server of the test process, and a fresh database for each test and service.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection,
    postgres::PgConnectOptions,
};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{eventually, port, process::Process, sql_counters, watchdog};

mod cluster;
mod database;

pub use database::Database;

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);

/// The services that have a database, each with the roles `<service>_owner` and `<service>_app`.
const SERVICES: [&str; 3] = ["order", "payment", "claims"];

/// Whether a commit survives a crash of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing is synced: fast, and sufficient where the server is never killed.
    Fast,
    /// As in production: a commit is on disk before it is acknowledged.
    Durable,
}

/// A PostgreSQL server as a child process, on 127.0.0.1 and without passwords. It keeps its port and data over a
/// restart.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    port: u16,
    durability: Durability,
    /// More settings, as `name=value`.
    settings: &'static [&'static str],
    /// None while it is stopped.
    process: Mutex<Option<Process>>,
    /// Databases of finished tests, dropped when the next one is created.
    discarded: Mutex<Vec<String>>,
}

impl Postgres {
    /// The fast server that all tests of a process share, started on first use. It must never be stopped.
    pub async fn shared() -> Arc<Postgres> {
        static SHARED: OnceCell<Arc<Postgres>> = OnceCell::const_new();
        Arc::clone(SHARED.get_or_init(|| Postgres::start(Durability::Fast)).await)
    }

    /// Starts a separate server, for tests that stop or kill it.
    ///
    /// # Panics
    /// When it is not up within 30 s; the message ends with its log.
    pub async fn start(durability: Durability) -> Arc<Postgres> {
        Postgres::start_with(durability, &[]).await
    }

    /// Starts a separate fast server that counts statements, including those inside functions and triggers.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    pub async fn start_counting() -> Arc<Postgres> {
        Postgres::start_with(Durability::Fast, &sql_counters::SETTINGS).await
    }

    async fn start_with(durability: Durability, settings: &'static [&'static str]) -> Arc<Postgres> {
        let folder = tempfile::Builder::new()
            .prefix("weft-pg-")
            .tempdir()
            .expect("the temp dir is writable");
        watchdog::remove(folder.path());
        let path = folder.path().to_owned();
        tokio::task::spawn_blocking(move || cluster::init(&path))
            .await
            .expect("initdb is there and works");
        let server = Postgres {
            folder,
            port: port::free(),
            durability,
            settings,
            process: Mutex::new(None),
            discarded: Mutex::new(Vec::new()),
        };
        server.restart().await;
        server.create_roles().await;
        Arc::new(server)
    }

    /// A fresh, empty database for one service, with a random name.
    pub async fn database(self: &Arc<Self>, service: &str) -> Database {
        Database::create(Arc::clone(self), service).await
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts or restarts it, killing it first if it runs, and waits until it accepts connections.
    ///
    /// # Panics
    /// When it is not up within 30 s.
    pub async fn restart(&self) {
        drop(self.process().take());
        eventually(START, || async {
            self.spawn_unless_running();
            self.connect("postgres").await?.close().await
        })
        .await;
    }

    /// Stops it gracefully: sessions are ended and everything is written.
    pub async fn stop(&self) {
        // SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
        if let Some(process) = self.process().as_mut() {
            process.signal(Signal::INT);
        }
        eventually(STOP, || async {
            self.process()
                .as_mut()
                .is_none_or(|process| process.ended().is_some())
        })
        .await;
        drop(self.process().take());
    }

    /// Kills it as in a crash: SIGKILL to the postmaster. Its sessions notice soon after.
    pub fn kill9(&self) {
        drop(self.process().take());
    }

    /// Sets this password for the roles that the services serve as, and requires it from now on. Open sessions
    /// continue. Only for a server that is not shared.
    pub async fn require_password(&self, password: &str) {
        let mut connection = self.connect("postgres").await.expect("the server is up");
        let roles = SERVICES.map(|service| format!("{service}_app"));
        for role in &roles {
            let alter = format!("alter role {role} password '{password}'");
            let altered = connection.execute(AssertSqlSafe(alter)).await;
            altered.expect("the role is there");
        }
        cluster::require_passwords(self.folder.path(), &roles.join(","));
        let reloaded = connection.execute("select pg_reload_conf()").await;
        reloaded.expect("a superuser may");
        eventually(START, || async {
            let without = self.options("postgres", &roles[0]).connect().await;
            without.is_err()
        })
        .await;
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.process().as_ref().map(Process::tail).unwrap_or_default()
    }

    /// The whole of its log so far.
    pub fn whole_log(&self) -> String {
        std::fs::read(self.folder.path().join("postgres.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn options(&self, database: &str, role: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .database(database)
            .username(role)
    }

    /// A superuser's connection to one of its databases.
    async fn connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        self.options(database, "postgres").connect().await
    }

    /// After a kill, remaining sessions make the new postmaster exit: it is started again.
    fn spawn_unless_running(&self) {
        let mut process = self.process();
        if process.as_mut().is_none_or(|process| process.ended().is_some()) {
            *process = Some(cluster::spawn(
                self.folder.path(),
                self.port,
                self.durability,
                self.settings,
            ));
        }
    }

    async fn create_roles(&self) {
        let mut connection = self
            .connect("postgres")
            .await
            .expect("the server has just answered");
        for service in SERVICES {
            for role in ["owner", "app"] {
                let create = format!("create role {service}_{role} login nosuperuser nobypassrls");
                sqlx::query(AssertSqlSafe(create))
                    .execute(&mut connection)
                    .await
                    .expect("the role is new");
            }
        }
        connection.close().await.expect("the server is up");
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discarded(&self) -> MutexGuard<'_, Vec<String>> {
        self.discarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

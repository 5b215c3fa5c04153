//! One service as a child process: its program, its settings, its ports.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    process::{ChildStderr, Command, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{eventually, port, process::Process};

const READY: Duration = Duration::from_secs(30);
const DRAINED: Duration = Duration::from_secs(40);

/// The services that a stack can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Orders and their sagas.
    Order,
    /// Payments and the ledger.
    Payment,
    /// Claims and remittances.
    Claims,
}

impl Service {
    /// All of them.
    pub const ALL: [Service; 3] = [Service::Order, Service::Payment, Service::Claims];

    /// Its name: program, database and proto package.
    pub fn name(self) -> &'static str {
        match self {
            Service::Order => "order",
            Service::Payment => "payment",
            Service::Claims => "claims",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A service that can be started, stopped and killed; its ports stay the same.
#[derive(Debug)]
pub(crate) struct Instance {
    name: &'static str,
    pub(crate) grpc: u16,
    pub(crate) probe: u16,
    program: PathBuf,
    log: PathBuf,
    /// Settings by dotted name; they become environment variables.
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    process: Mutex<Option<Process>>,
}

impl Instance {
    pub(crate) fn new(name: &'static str, program: PathBuf, log: PathBuf) -> Instance {
        let (grpc, probe) = (port::free(), port::free());
        let settings = [("grpc.listen", grpc), ("probe.listen", probe)]
            .map(|(name, port)| (name.to_owned(), format!("127.0.0.1:{port}")));
        Instance {
            name,
            grpc,
            probe,
            program,
            log,
            settings: BTreeMap::from(settings),
            environment: BTreeMap::new(),
            process: Mutex::new(None),
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    pub(crate) fn environment(&mut self, variables: &BTreeMap<String, String>) {
        self.environment.extend(variables.clone());
    }

    /// Runs `migrate` and waits for its end.
    pub(crate) async fn migrate(&self) {
        let mut command = self.command("migrate");
        let done = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("waiting does not panic");
        let output = done.unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} migrate failed:\n{errors}", self.name);
    }

    /// Starts it without waiting for anything.
    pub(crate) fn spawn(&self) {
        let process = Process::spawn(self.name, &mut self.command("serve"), &self.log, "KILL");
        *self.process() = Some(process);
    }

    /// Starts it with its log in a pipe for the caller.
    pub(crate) fn spawn_piped(&self) -> ChildStderr {
        let mut command = self.command("serve");
        let (process, errors) = Process::spawn_piped(self.name, &mut command, &self.log, "KILL");
        *self.process() = Some(process);
        errors
    }

    /// Waits until it reports readiness.
    pub(crate) async fn ready(&self) {
        self.serving("readiness").await;
    }

    /// Waits until its probe port reports `name` as serving.
    pub(crate) async fn serving(&self, name: &str) {
        eventually(READY, || async {
            if let Some(process) = self.process().as_mut() {
                assert!(
                    process.ended().is_none(),
                    "{} ended before it was ready\n{}",
                    self.name,
                    process.tail()
                );
            }
            match self.health(name).await {
                Ok(ServingStatus::Serving) => Ok(()),
                Ok(status) => Err(format!(
                    "{} is {}\n{}",
                    self.name,
                    status.as_str_name(),
                    self.log()
                )),
                Err(status) => Err(format!("{}: {status}\n{}", self.name, self.log())),
            }
        })
        .await;
    }

    /// The health status of `name` on the probe port, as a kubelet reads it.
    pub(crate) async fn health(&self, name: &str) -> Result<ServingStatus, tonic::Status> {
        let mut client = HealthClient::new(self.probe_channel());
        let mut request = tonic::Request::new(HealthCheckRequest {
            service: name.to_owned(),
        });
        request.set_timeout(Duration::from_secs(2));
        Ok(client.check(request).await?.into_inner().status())
    }

    /// Kills it with SIGKILL, as in a crash.
    pub(crate) fn kill9(&self) {
        drop(self.process().take());
    }

    /// Sends SIGTERM, and waits until it has drained.
    pub(crate) async fn stop(&self) -> ExitStatus {
        if let Some(process) = self.process().as_mut() {
            process.signal(Signal::TERM);
        }
        eventually(DRAINED, || async {
            self.process().as_mut().and_then(Process::ended)
        })
        .await
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::id)
    }

    pub(crate) fn log(&self) -> String {
        self.process().as_ref().map(Process::tail).unwrap_or_default()
    }

    pub(crate) fn channel(&self) -> Channel {
        endpoint(self.grpc).connect_lazy()
    }

    fn probe_channel(&self) -> Channel {
        endpoint(self.probe).connect_lazy()
    }

    /// The child gets no environment of the tests except PATH.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(verb)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let prefix = self.name.to_uppercase();
        for (name, value) in &self.settings {
            command.env(
                format!("{prefix}__{}", name.to_uppercase().replace('.', "__")),
                value,
            );
        }
        command.envs(&self.environment);
        command
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn endpoint(port: u16) -> Endpoint {
    let uri = format!("http://127.0.0.1:{port}");
    Endpoint::from_shared(uri)
        .expect("an address is a URI")
        .connect_timeout(Duration::from_secs(2))
}

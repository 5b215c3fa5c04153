//! The whole system on real servers: NATS, PostgreSQL and the services, connected to each other.

mod options;
mod wiring;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, ExitStatus},
    sync::Arc,
};

pub use options::Options;
use tempfile::TempDir;
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{Bearer, Database, Issuer, Nats, Postgres, Service, binaries, service::Instance, watchdog};

/// A connection that sends a token with every call. It reconnects after a restart and never retries.
pub type Client = InterceptedService<Channel, Bearer>;

/// A running system. Dropping it stops it; if the test has failed, the ends of the services' logs are printed.
#[derive(Debug)]
pub struct Stack {
    instances: BTreeMap<Service, Instance>,
    databases: BTreeMap<Service, Database>,
    postgres: Arc<Postgres>,
    nats: Nats,
    issuer: Issuer,
    folder: TempDir,
}

impl Stack {
    /// Starts the default stack: all services ready, a NATS server of its own, databases of its own on the shared
    /// PostgreSQL.
    pub async fn start() -> Stack {
        Stack::with(Options::default()).await
    }

    /// Starts a stack with options.
    ///
    /// # Panics
    /// When a part is not ready within 30 s; the message ends with its log.
    pub async fn with(options: Options) -> Stack {
        let folder = tempfile::Builder::new()
            .prefix("weft-stack-")
            .tempdir()
            .expect("the temp dir is writable");
        watchdog::remove(folder.path());
        let issuer = Issuer::create(folder.path());
        let (postgres, nats) = tokio::join!(server(&options), Nats::start());
        let mut databases = BTreeMap::new();
        for service in Service::ALL {
            databases.insert(service, postgres.database(service.name()).await);
        }
        let instances = wiring::wire(&options, folder.path(), &issuer, &nats, &databases).await;
        let stack = Stack {
            instances,
            databases,
            postgres,
            nats,
            issuer,
            folder,
        };
        stack.bring_up(&options.services).await;
        stack
    }

    /// A token for a user of one facility, valid for an hour.
    pub fn token(&self, facility: &str, roles: &[&str]) -> Bearer {
        self.issuer.token(facility, roles)
    }

    /// The issuer of the tokens, for tests of invalid ones.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// A connection for a generated client: `OrderServiceClient::new(stack.connect(Service::Order, &token))`.
    pub fn connect(&self, service: Service, token: &Bearer) -> Client {
        InterceptedService::new(self.channel(service), token.clone())
    }

    /// A connection without a token.
    pub fn channel(&self, service: Service) -> Channel {
        self.instance(service).channel()
    }

    /// gRPC address of a service: `127.0.0.1:PORT`.
    pub fn address(&self, service: Service) -> String {
        format!("127.0.0.1:{}", self.instance(service).grpc)
    }

    /// Probe address of a service: `127.0.0.1:PORT`.
    pub fn probe_address(&self, service: Service) -> String {
        format!("127.0.0.1:{}", self.instance(service).probe)
    }

    /// The command line, configured for this stack and with a token: `stack.weft(&token).await.args(["order",
    /// "list"])`. Run it outside the runtime's threads, or it may wait for what it blocks.
    pub async fn weft(&self, token: &Bearer) -> Command {
        let mut command = Command::new(binaries::program("weft").await);
        for service in Service::ALL {
            let variable = format!("WEFT_{}_URL", service.name().to_uppercase());
            command.env(variable, format!("http://{}", self.address(service)));
        }
        command
            .env("WEFT_TOKEN", token.as_str())
            .env("WEFT_DIR", self.folder.path())
            .current_dir(self.folder.path());
        command
    }

    /// The health status of `name` (`readiness`, `order.v1.OrderService`) on the probe port, as a kubelet reads
    /// it.
    ///
    /// # Errors
    /// The call's status, when the process is gone or does not know the name.
    pub async fn health(&self, service: Service, name: &str) -> Result<ServingStatus, Status> {
        self.instance(service).health(name).await
    }

    /// Kills a service with SIGKILL, as in a crash.
    pub fn kill9(&self, service: Service) {
        self.instance(service).kill9();
    }

    /// Sends SIGTERM and waits until the service has drained.
    pub async fn stop(&self, service: Service) -> ExitStatus {
        self.instance(service).stop().await
    }

    /// Starts or restarts a service on the same addresses, and waits until it is ready.
    pub async fn restart(&self, service: Service) {
        self.spawn(service);
        self.ready(service).await;
    }

    /// Starts or restarts a service without waiting.
    pub fn spawn(&self, service: Service) {
        self.instance(service).kill9();
        self.instance(service).spawn();
    }

    /// Waits until a service is ready.
    pub async fn ready(&self, service: Service) {
        self.instance(service).ready().await;
    }

    /// The process id of a running service, for measurements.
    pub fn pid(&self, service: Service) -> Option<u32> {
        self.instance(service).pid()
    }

    /// The end of a running service's log.
    pub fn log(&self, service: Service) -> String {
        self.instance(service).log()
    }

    /// A service's database.
    pub fn database(&self, service: Service) -> &Database {
        &self.databases[&service]
    }

    /// The PostgreSQL server. It may be stopped or killed only if the options asked for a server of the stack's
    /// own.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The NATS server.
    pub fn nats(&self) -> &Nats {
        &self.nats
    }

    /// A folder for files of the test, removed with the stack.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn instance(&self, service: Service) -> &Instance {
        &self.instances[&service]
    }

    async fn bring_up(&self, services: &[Service]) {
        let all = self.instances.values();
        futures_util::future::join_all(all.map(Instance::migrate)).await;
        for service in services {
            self.spawn(*service);
        }
        futures_util::future::join_all(services.iter().map(|service| self.ready(*service))).await;
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for instance in self.instances.values() {
                eprintln!("{}", instance.log());
            }
        }
    }
}

async fn server(options: &Options) -> Arc<Postgres> {
    let server = match options.postgres {
        None => Postgres::shared().await,
        Some(_) if options.count_statements => Postgres::start_counting().await,
        Some(durability) => Postgres::start(durability).await,
    };
    if let Some(password) = &options.database_password {
        server.require_password(password).await;
    }
    server
}

//! The whole system on real servers: NATS, PostgreSQL and the services, wired to each other.

use std::{collections::BTreeMap, path::Path, process::ExitStatus, sync::Arc};

use tempfile::TempDir;
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    Bearer, Database, Durability, Issuer, Nats, Postgres, Service, binaries, service::Instance, token,
    watchdog,
};

/// A connection that carries a token. It reconnects by itself after a restart; it never retries.
pub type Client = InterceptedService<Channel, Bearer>;

/// How a stack differs from the usual one.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: the fast server that all tests share, which must not be stopped. Otherwise one of its own.
    pub postgres: Option<Durability>,
    /// Which services run. All have their database and their address, running or not.
    pub services: Vec<Service>,
    /// Settings beside those that the wiring needs: service, dotted name, value.
    pub settings: Vec<(Service, String, String)>,
    /// Environment variables of all services (`OTEL_…`).
    pub environment: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            postgres: None,
            services: Service::ALL.to_vec(),
            settings: Vec::new(),
            environment: BTreeMap::new(),
        }
    }
}

impl Options {
    /// A PostgreSQL of the stack's own, which may be stopped and killed.
    #[must_use]
    pub fn own_postgres(mut self, durability: Durability) -> Options {
        self.postgres = Some(durability);
        self
    }

    /// One more setting of one service, by its dotted name.
    #[must_use]
    pub fn set(mut self, service: Service, name: &str, value: &str) -> Options {
        self.settings.push((service, name.to_owned(), value.to_owned()));
        self
    }

    /// One more environment variable of all services.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Options {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Only these services run.
    #[must_use]
    pub fn only(mut self, services: &[Service]) -> Options {
        self.services = services.to_vec();
        self
    }
}

/// A running system. Dropping it ends it; when the test has failed, the ends of the services' logs are shown.
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
    /// Starts the usual one: all services ready, a NATS of its own, databases of its own on the shared PostgreSQL.
    pub async fn start() -> Stack {
        Stack::with(Options::default()).await
    }

    /// Starts one that differs.
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
        let (postgres, nats) = tokio::join!(server(options.postgres), Nats::start());
        let mut databases = BTreeMap::new();
        for service in Service::ALL {
            databases.insert(service, postgres.database(service.name()).await);
        }
        let instances = wire(&options, folder.path(), &issuer, &nats, &databases).await;
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

    /// A token for a person of one facility, good for an hour.
    pub fn token(&self, facility: &str, roles: &[&str]) -> Bearer {
        self.issuer.token(facility, roles)
    }

    /// The key that tokens are signed with, for tests of bad ones.
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

    /// Where a service takes calls: `127.0.0.1:PORT`.
    pub fn address(&self, service: Service) -> String {
        format!("127.0.0.1:{}", self.instance(service).grpc)
    }

    /// Where it answers probes: `127.0.0.1:PORT`.
    pub fn probe_address(&self, service: Service) -> String {
        format!("127.0.0.1:{}", self.instance(service).probe)
    }

    /// What the probe port answers about `name` (`readiness`, `order.v1.OrderService`), as a kubelet asks it.
    ///
    /// # Errors
    /// The call's status, when the process is gone or knows no such name.
    pub async fn health(&self, service: Service, name: &str) -> Result<ServingStatus, Status> {
        self.instance(service).health(name).await
    }

    /// Kills a service as a crash would.
    pub fn kill9(&self, service: Service) {
        self.instance(service).kill9();
    }

    /// Sends SIGTERM and waits until the service has drained.
    pub async fn stop(&self, service: Service) -> ExitStatus {
        self.instance(service).stop().await
    }

    /// Starts a service (again), on the same addresses, and waits until it is ready.
    pub async fn restart(&self, service: Service) {
        self.spawn(service);
        self.ready(service).await;
    }

    /// Starts a service (again) without waiting.
    pub fn spawn(&self, service: Service) {
        self.instance(service).kill9();
        self.instance(service).spawn();
    }

    /// Waits until a service is ready.
    pub async fn ready(&self, service: Service) {
        self.instance(service).ready().await;
    }

    /// The process number of a running service, for measurements.
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

    /// The PostgreSQL server. Stop or kill it only when the options asked for one of the stack's own.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The NATS server.
    pub fn nats(&self) -> &Nats {
        &self.nats
    }

    /// A folder for the test's own files; gone with the stack.
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

async fn server(own: Option<Durability>) -> Arc<Postgres> {
    match own {
        None => Postgres::shared().await,
        Some(durability) => Postgres::start(durability).await,
    }
}

/// Tells every service where its servers and its peers are and whom to believe.
async fn wire(
    options: &Options,
    folder: &Path,
    issuer: &Issuer,
    nats: &Nats,
    databases: &BTreeMap<Service, Database>,
) -> BTreeMap<Service, Instance> {
    let mut instances = BTreeMap::new();
    for service in Service::ALL {
        let program = binaries::program(service.name()).await;
        instances.insert(
            service,
            Instance::new(service, program, folder.join(format!("{service}.log"))),
        );
    }
    let targets: Vec<(Service, String)> = instances
        .values()
        .map(|instance| {
            (
                instance.service,
                format!("static:http://127.0.0.1:{}", instance.grpc),
            )
        })
        .collect();

    for (service, instance) in &mut instances {
        let database = &databases[service];
        instance.set("database.url", database.app_url());
        instance.set("database.migrate_url", database.owner_url());
        instance.set("auth.issuer", token::ISSUER);
        instance.set("auth.audience", token::AUDIENCE);
        instance.set("auth.jwks_file", issuer.jwks_file().to_string_lossy());
        instance.set(
            "auth.signing_key_file",
            issuer.signing_key_file().to_string_lossy(),
        );
        instance.set("auth.signing_key_id", token::KEY_ID);
        instance.set("events.servers", nats.url());
        instance.set("events.monitor_url", nats.monitoring_url());
        for (peer, target) in peers(*service)
            .iter()
            .filter_map(|peer| targets.iter().find(|(name, _)| name == peer))
        {
            instance.set(&format!("{peer}.target"), target);
        }
        for (_, name, value) in options.settings.iter().filter(|(of, _, _)| of == service) {
            instance.set(name, value);
        }
        instance.environment(&options.environment);
    }
    instances
}

/// Whom a service calls; it has a setting `<peer>.target` for each.
fn peers(service: Service) -> &'static [Service] {
    match service {
        Service::Order => &[Service::Payment, Service::Claims],
        Service::Payment | Service::Claims => &[],
    }
}

//! The whole local system: started in order, stopped in the reverse order.

use std::{collections::BTreeMap, env, fs, path::Path, time::Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{
    certificates::{self, Authority},
    lock::{self, Lock},
    nats::Nats,
    options::Options,
    ports::Ports,
    postgres::Postgres,
    programs::Programs,
    service::{self, ListenPorts},
    supervisor::Supervised,
};
use crate::{
    duration,
    env::host_and_port,
    failure::Failure,
    globals::{Format, Globals},
    keys::{self, Key},
    output::{self, Table},
    service::Service,
    token::Bearer,
    workspace::{Description, Tls, Workspace},
};

/// The running system.
pub(crate) struct System {
    workspace: Workspace,
    postgres: Postgres,
    nats: Nats,
    services: Vec<(ListenPorts, Supervised)>,
    /// The task that renews the certificates; `None` without mutual TLS.
    renewal: Option<AbortOnDropHandle<()>>,
    _lock: Lock,
}

impl System {
    /// # Errors
    /// When another `weft up` runs in the folder, a program is missing, or a process does not become ready.
    /// Watchdogs stop the processes that had started.
    pub(crate) async fn start(options: Options) -> anyhow::Result<System> {
        let began = Instant::now();
        let progress = |text: String| {
            if !options.quiet {
                eprintln!("{:>8}  {text}", duration::format_rounded(began.elapsed()));
            }
        };
        let programs = Programs::find()?;
        let workspace = options
            .workspace
            .create()
            .with_context(|| format!("{} cannot be created", options.workspace.path().display()))?;
        let lock = Lock::acquire(&workspace)?;
        lock::clear_leftovers(&workspace).await?;
        let _ = fs::remove_file(workspace.path().join("weft.json"));
        let mut all_keys = vec![Key::open_or_create(&workspace.signing_key())?.to_jwk(None)];
        all_keys.extend(service::keys(&workspace)?);
        keys::write_jwks(&workspace.jwks(), &all_keys)?;
        let authority = options
            .certificate_ttl
            .map(|ttl| Authority::create(&workspace, ttl));
        let renewal = authority.transpose()?.map(Authority::renew_periodically);
        let ports = SystemPorts::choose(&workspace, &options)?;
        progress(format!("starting in {}", workspace.path().display()));

        let (postgres, nats) = tokio::try_join!(
            async {
                let postgres = Postgres::start(&workspace, &programs, ports.postgres).await?;
                progress(format!("PostgreSQL is ready on port {}", postgres.port));
                anyhow::Ok(postgres)
            },
            async {
                let nats = Nats::start(&workspace, &programs, ports.nats).await?;
                progress(format!("NATS is ready on port {}", nats.port));
                anyhow::Ok(nats)
            },
        )?;

        let starting = ports.services.iter().map(async |at| {
            let config = service::configure(&workspace, *at, &ports.services, &postgres, &nats)?;
            service::migrate(&programs, at.service, &config).await?;
            progress(format!("{} has migrated its database", at.service.name()));
            let process = service::start(&workspace, &programs, *at, &config).await?;
            progress(format!("{} is ready on port {}", at.service.name(), at.grpc));
            anyhow::Ok((*at, process))
        });
        let services = futures_util::future::try_join_all(starting).await?;
        let system = System {
            workspace,
            postgres,
            nats,
            services,
            renewal,
            _lock: lock,
        };
        system.enable_restarts();
        system.workspace.write_description(&system.description())?;
        Ok(system)
    }

    /// Restarts every process from now on when it ends.
    fn enable_restarts(&self) {
        let services = self.services.iter().map(|(_, process)| process);
        services
            .chain([&self.nats.process, &self.postgres.process])
            .for_each(Supervised::enable_restarts);
    }

    pub(crate) fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Stops callers before the services they call, and the servers last. Each stop is bounded by the process's
    /// grace.
    pub(crate) async fn stop(self) {
        let (callers, called): (Vec<_>, Vec<_>) = self
            .services
            .into_iter()
            .partition(|(at, _)| at.service == Service::Order);
        for group in [callers, called] {
            futures_util::future::join_all(group.into_iter().map(|(_, process)| process.stop())).await;
        }
        self.nats.process.stop().await;
        self.postgres.process.stop().await;
        let _ = fs::remove_file(self.workspace.path().join("weft.json"));
    }

    /// Prints all addresses, and a call to try.
    pub(crate) fn print_summary(&self, globals: &Globals) -> Result<(), Failure> {
        let description = self.description();
        let local_globals = Globals {
            dir: Some(self.workspace.path().to_owned()),
            ..globals.clone()
        };
        let token = Bearer::from_globals(&local_globals)?.token()?;
        let order = description
            .services
            .get(Service::Order.name())
            .map(|addresses| addresses.url.as_str());
        let security = match &description.tls {
            None => "-plaintext".to_owned(),
            Some(Tls { ca, cert, key }) => {
                let (ca, cert, key) = (ca.display(), cert.display(), key.display());
                format!("-cacert {ca} -cert {cert} -key {key}")
            }
        };
        let try_this = format!(
            "{} {security} -H 'authorization: Bearer {token}' -d '{{\"pageSize\": 5}}' {} order.v1.OrderService/ListOrders",
            grpcurl(),
            host_and_port(order.unwrap_or_default()),
        );
        if globals.output == Format::Json {
            return output::print_json(&json!({"ready": true, "system": description, "try": try_this}));
        }
        let mut table = Table::new(["", "GRPC", "PROBES", "LOG"], "");
        for (name, addresses) in &description.services {
            let log = self.workspace.log(name).display().to_string();
            table.row([
                name.clone(),
                addresses.url.clone(),
                addresses.probe_url.clone(),
                log,
            ]);
        }
        for (name, url) in &description.servers {
            table.row([
                name.clone(),
                url.clone(),
                String::new(),
                self.workspace.log(name).display().to_string(),
            ]);
        }
        println!("\n{table}\nThe facility is `{}`. Try:\n", globals.facility);
        println!(
            "  weft order place --line 85123A:6:15.30:HEART --currency GBP --payment-method tok_visa --capture immediate"
        );
        println!(
            "  weft ledger balance\n\n{try_this}\n\nCtrl-C stops it all; the data stays in {}.",
            self.workspace.path().display()
        );
        Ok(())
    }

    fn description(&self) -> Description {
        let services = self
            .services
            .iter()
            .map(|(at, _)| (at.service.name().to_owned(), at.addresses()))
            .collect();
        let servers = BTreeMap::from([
            ("nats".to_owned(), format!("nats://127.0.0.1:{}", self.nats.port)),
            (
                "postgresql".to_owned(),
                format!("postgres://127.0.0.1:{}", self.postgres.port),
            ),
        ]);
        let tls = self.renewal.as_ref().map(|_| Tls {
            ca: self.workspace.ca_certificate(),
            cert: self.workspace.certificate(certificates::CLIENT),
            key: self.workspace.certificate_key(certificates::CLIENT),
        });
        Description {
            tls,
            pid: std::process::id(),
            services,
            servers,
            signing_key: self.workspace.signing_key(),
            jwks: self.workspace.jwks(),
        }
    }
}

/// The ports of all servers and services.
struct SystemPorts {
    postgres: u16,
    nats: [u16; 2],
    services: Vec<ListenPorts>,
}

impl SystemPorts {
    fn choose(workspace: &Workspace, options: &Options) -> std::io::Result<SystemPorts> {
        let mut chosen = Ports::open(workspace);
        let services = Service::ALL
            .iter()
            .map(|service| ListenPorts::choose(*service, &mut chosen, options));
        let ports = SystemPorts {
            services: services.collect::<Result<_, _>>()?,
            postgres: chosen.choose("postgresql", None)?,
            nats: [chosen.choose("nats", None)?, chosen.choose("nats monitor", None)?],
        };
        chosen.save()?;
        Ok(ports)
    }
}

/// `grpcurl`, or its path in `.tools/bin` if it is not in PATH.
fn grpcurl() -> String {
    let on_path = env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join("grpcurl").exists()));
    let tool = Path::new(".tools/bin/grpcurl");
    if !on_path && tool.exists() {
        tool.display().to_string()
    } else {
        "grpcurl".to_owned()
    }
}

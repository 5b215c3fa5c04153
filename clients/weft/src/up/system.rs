//! All of it: started in order, described, stopped in the reverse order.

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{
    certificates::{self, Authority},
    lock::{self, Lock},
    nats::Nats,
    ports::Ports,
    postgres::Postgres,
    programs::Programs,
    service::{self, Listening},
    supervisor::Supervised,
};
use crate::{
    cli::{Format, Globals},
    clients::Service,
    duration,
    env::authority,
    failure::Failure,
    home::{Description, Home, Tls},
    keys::{self, Key},
    output::{self, Table},
    token::Bearer,
};

/// What to start.
pub(crate) struct Options {
    pub(crate) home: Home,
    /// Take any free ports for the services.
    pub(crate) free_ports: bool,
    /// How long certificates are good for; `None`: no mutual TLS.
    pub(crate) certificate_ttl: Option<Duration>,
    /// Say nothing on the way.
    pub(crate) quiet: bool,
}

/// Everything, running.
pub(crate) struct System {
    home: Home,
    postgres: Postgres,
    nats: Nats,
    services: Vec<(Listening, Supervised)>,
    /// Under mutual TLS: keeps the certificates fresh.
    renewal: Option<AbortOnDropHandle<()>>,
    _lock: Lock,
}

impl System {
    /// # Errors
    /// When another `weft up` looks after the folder, a program is missing, or something does not become ready. What
    /// had started is stopped by its watchdogs.
    pub(crate) async fn start(options: Options) -> anyhow::Result<System> {
        let began = Instant::now();
        let say = |text: String| {
            if !options.quiet {
                eprintln!("{:>8}  {text}", duration::show(began.elapsed()));
            }
        };
        let programs = Programs::find()?;
        let home = options
            .home
            .create()
            .with_context(|| format!("{} cannot be created", options.home.path().display()))?;
        let lock = Lock::take(&home)?;
        lock::clear_leftovers(&home).await?;
        let _ = fs::remove_file(home.path().join("weft.json"));
        let mut all_keys = vec![Key::open_or_create(&home.signing_key())?.to_jwk(None)];
        all_keys.extend(service::keys(&home)?);
        keys::write_jwks(&home.jwks(), &all_keys)?;
        let authority = options.certificate_ttl.map(|ttl| Authority::create(&home, ttl));
        let renewal = authority.transpose()?.map(Authority::keep_fresh);
        let places = Places::choose(&home, &options)?;
        say(format!("starting in {}", home.path().display()));

        let (postgres, nats) = tokio::try_join!(
            async {
                let postgres = Postgres::start(&home, &programs, places.postgres).await?;
                say(format!("PostgreSQL is ready on port {}", postgres.port));
                anyhow::Ok(postgres)
            },
            async {
                let nats = Nats::start(&home, &programs, places.nats).await?;
                say(format!("NATS is ready on port {}", nats.port));
                anyhow::Ok(nats)
            },
        )?;

        let starting = places.services.iter().map(async |at| {
            let config = service::configure(&home, *at, &places.services, &postgres, &nats)?;
            service::migrate(&programs, at.service, &config).await?;
            say(format!("{} has migrated its database", at.service.name()));
            let process = service::start(&home, &programs, *at, &config).await?;
            say(format!("{} is ready on port {}", at.service.name(), at.grpc));
            anyhow::Ok((*at, process))
        });
        let services = futures_util::future::try_join_all(starting).await?;
        let system = System {
            home,
            postgres,
            nats,
            services,
            renewal,
            _lock: lock,
        };
        system.trust();
        system.home.describe(&system.description())?;
        Ok(system)
    }

    /// From now on whatever ends is started again.
    fn trust(&self) {
        let services = self.services.iter().map(|(_, process)| process);
        services
            .chain([&self.nats.process, &self.postgres.process])
            .for_each(Supervised::trust);
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Stops what calls before what is called, and the servers last. Bounded by each one's grace.
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
        let _ = fs::remove_file(self.home.path().join("weft.json"));
    }

    /// Says where everything is, and a call to try.
    pub(crate) fn announce(&self, globals: &Globals) -> Result<(), Failure> {
        let description = self.description();
        let own = Globals {
            dir: Some(self.home.path().to_owned()),
            ..globals.clone()
        };
        let token = Bearer::of(&own)?.token()?;
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
            authority(order.unwrap_or_default()),
        );
        if globals.output == Format::Json {
            return output::print_json(&json!({"ready": true, "system": description, "try": try_this}));
        }
        let mut table = Table::new(["", "GRPC", "PROBES", "LOG"], "");
        for (name, addresses) in &description.services {
            let log = self.home.log(name).display().to_string();
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
                self.home.log(name).display().to_string(),
            ]);
        }
        println!("\n{table}\nThe facility is `{}`. Try:\n", globals.facility);
        println!(
            "  weft order place --line 85123A:6:15.30:HEART --currency GBP --payment-method tok_visa --capture immediate"
        );
        println!(
            "  weft ledger balance\n\n{try_this}\n\nCtrl-C stops it all; the data stays in {}.",
            self.home.path().display()
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
            ca: self.home.authority(),
            cert: self.home.certificate(certificates::CLIENT),
            key: self.home.certificate_key(certificates::CLIENT),
        });
        Description {
            tls,
            pid: std::process::id(),
            services,
            servers,
            signing_key: self.home.signing_key(),
            jwks: self.home.jwks(),
        }
    }
}

/// Where everything will listen.
struct Places {
    postgres: u16,
    nats: [u16; 2],
    services: Vec<Listening>,
}

impl Places {
    fn choose(home: &Home, options: &Options) -> std::io::Result<Places> {
        let mut ports = Ports::open(home);
        let services = Service::ALL
            .iter()
            .map(|service| Listening::choose(*service, &mut ports, options));
        let places = Places {
            services: services.collect::<Result<_, _>>()?,
            postgres: ports.choose("postgresql", None)?,
            nats: [ports.choose("nats", None)?, ports.choose("nats monitor", None)?],
        };
        ports.save()?;
        Ok(places)
    }
}

/// `grpcurl`, or where the set-up has put it.
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

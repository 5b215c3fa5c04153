//! One Weft service: its settings, migrations and process.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};

use super::{
    nats::Nats, options::Options, ports::Ports, postgres::Postgres, process::Program, programs::Programs,
    readiness, supervisor::Supervised,
};
use crate::{
    clients::TRUST_DOMAIN,
    keys::Key,
    service::Service,
    token::{AUDIENCE, ISSUER},
    workspace::{Addresses, Workspace, write_private},
};

/// The ports of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenPorts {
    pub(crate) service: Service,
    pub(crate) grpc: u16,
    pub(crate) probe: u16,
    /// Whether the gRPC port accepts only mutual TLS.
    pub(crate) tls: bool,
}

impl ListenPorts {
    pub(crate) fn choose(
        service: Service,
        ports: &mut Ports,
        options: &Options,
    ) -> std::io::Result<ListenPorts> {
        let (grpc, probe) = service.default_ports();
        let usual = |port| (!options.free_ports).then_some(port);
        let name = service.name();
        Ok(ListenPorts {
            service,
            grpc: ports.choose(name, usual(grpc))?,
            probe: ports.choose(&format!("{name} probe"), usual(probe))?,
            tls: options.certificate_ttl.is_some(),
        })
    }

    pub(crate) fn addresses(&self) -> Addresses {
        let scheme = if self.tls { "https" } else { "http" };
        Addresses {
            url: format!("{scheme}://127.0.0.1:{}", self.grpc),
            probe_url: format!("http://127.0.0.1:{}", self.probe),
        }
    }
}

/// The file of the key with which a service signs its own tokens.
pub(crate) fn key_file(workspace: &Workspace, service: Service) -> PathBuf {
    workspace
        .path()
        .join("keys")
        .join(format!("{}.pem", service.name()))
}

/// Creates the key of every service; returns the public keys.
pub(crate) fn keys(workspace: &Workspace) -> anyhow::Result<Vec<serde_json::Value>> {
    let key = |service: &Service| {
        let key = Key::open_or_create(&key_file(workspace, *service))?;
        Ok(key.to_jwk(Some(service.name())))
    };
    Service::ALL.iter().map(key).collect()
}

/// Writes the service's settings, as a file for `order serve --config FILE`.
pub(crate) fn configure(
    workspace: &Workspace,
    at: ListenPorts,
    all: &[ListenPorts],
    postgres: &Postgres,
    nats: &Nats,
) -> anyhow::Result<PathBuf> {
    let service = at.service;
    let mut text = format!(
        "[grpc]\nlisten = \"127.0.0.1:{}\"\n\n[probe]\nlisten = \"127.0.0.1:{}\"\n\n\
         [database]\nurl = {}\nmigrate_url = {}\n\n\
         [auth]\nissuer = {}\naudience = {}\njwks_file = {}\nsigning_key_file = {}\n\n\
         [events]\nservers = [\"nats://127.0.0.1:{}\"]\nmonitor_url = \"http://127.0.0.1:{}\"\nevents_max_bytes = 1073741824\n",
        at.grpc,
        at.probe,
        quoted(&postgres.url(service, "app")?),
        quoted(&postgres.url(service, "owner")?),
        quoted(ISSUER),
        quoted(AUDIENCE),
        quoted(&workspace.jwks().to_string_lossy()),
        quoted(&key_file(workspace, service).to_string_lossy()),
        nats.port,
        nats.monitor_port,
    );
    let sections = TlsSections::new(workspace, service);
    if at.tls {
        text.push_str(&sections.server());
    }
    if service == Service::Order {
        for other in all.iter().filter(|other| other.service != Service::Order) {
            let (name, url) = (other.service.name(), other.addresses().url);
            text.push_str(&format!("\n[{name}]\ntarget = \"static:{url}\"\n"));
            if at.tls {
                text.push_str(&sections.client(other.service));
            }
        }
    }
    let path = workspace.config(&format!("{}.toml", service.name()));
    write_private(&path, text.as_bytes())?;
    Ok(path)
}

/// The settings' sections for mutual TLS, as a server and as a client.
struct TlsSections {
    ca: String,
    files: String,
}

impl TlsSections {
    fn new(workspace: &Workspace, service: Service) -> TlsSections {
        let path = |path: PathBuf| quoted(&path.to_string_lossy());
        TlsSections {
            ca: path(workspace.ca_certificate()),
            files: format!(
                "cert_file = {}\nkey_file = {}\n",
                path(workspace.certificate(service.name())),
                path(workspace.certificate_key(service.name()))
            ),
        }
    }

    fn server(&self) -> String {
        let TlsSections { ca, files } = self;
        format!("\n[grpc.tls]\n{files}client_ca_file = {ca}\ntrust_domain = \"{TRUST_DOMAIN}\"\n")
    }

    fn client(&self, server: Service) -> String {
        let TlsSections { ca, files } = self;
        let id = quoted(&server.spiffe_id(TRUST_DOMAIN));
        format!(
            "\n[{}.tls]\n{files}ca_file = {ca}\nserver_ids = [{id}]\n",
            server.name()
        )
    }
}

/// Quotes a string for TOML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Migrates the service's database to the schema of its program.
pub(crate) async fn migrate(programs: &Programs, service: Service, config: &PathBuf) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new(programs.service(service));
    command
        .arg("migrate")
        .arg("--config")
        .arg(config)
        .kill_on_drop(true);
    let output = command
        .output()
        .await
        .with_context(|| format!("{} migrate cannot be started", service.name()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} migrate failed: {}", service.name(), stderr.trim());
    }
    Ok(())
}

/// Starts the service and waits until it is ready.
pub(crate) async fn start(
    workspace: &Workspace,
    programs: &Programs,
    at: ListenPorts,
    config: &std::path::Path,
) -> anyhow::Result<Supervised> {
    let name = at.service.name();
    let program = Program {
        name,
        path: programs.service(at.service),
        arguments: vec![
            "serve".to_owned(),
            "--config".to_owned(),
            config.display().to_string(),
        ],
        log: workspace.log(name),
        stop_signal: "TERM",
        grace: Duration::from_secs(30),
        user: None,
    };
    let process = Supervised::start(program, workspace.pid_file(name)).await?;
    let mut probe = readiness::Probe::new(at.probe);
    readiness::wait(name, &process, &workspace.log(name), async || {
        probe.check().await.is_ok()
    })
    .await?;
    Ok(process)
}

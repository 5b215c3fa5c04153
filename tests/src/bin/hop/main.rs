//! A service process for the scenarios of the mesh: real layers, and handlers that do as a test tells them.
//!
//! It stands in the place of the order service, so that it has a contract with policies to serve.

mod control;
mod handlers;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use chassis::{Process, Sections, Upstream, Violations};
use control::Control;
use handlers::Handlers;
use proto::order::v1::order_service_client::OrderServiceClient;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::codegen::http;

fn main() -> ExitCode {
    chassis::run::<HopService>()
}

struct HopService;

/// The sections of every service, and where tests talk to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    grpc: chassis::server::Settings,
    probe: chassis::health::Settings,
    /// Not used: it has nothing to store, and so is never ready either, only started.
    database: chassis::postgres::Settings,
    auth: chassis::auth::Settings,
    idempotency: chassis::idempotency::Settings,
    audit: chassis::audit::Settings,
    telemetry: chassis::telemetry::Settings,
    drain: chassis::drain::Settings,
    /// Where tests say what is to be done, and ask what was.
    control: SocketAddr,
    /// The hop that calls go on to; none where the target is empty.
    next: Upstream,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            grpc: chassis::server::Settings::default(),
            probe: chassis::health::Settings::default(),
            database: chassis::postgres::Settings::of("hop"),
            auth: chassis::auth::Settings::default(),
            idempotency: chassis::idempotency::Settings::default(),
            audit: chassis::audit::Settings::default(),
            telemetry: chassis::telemetry::Settings::default(),
            drain: chassis::drain::Settings::default(),
            control: SocketAddr::from(([127, 0, 0, 1], 0)),
            next: Upstream::default(),
        }
    }
}

impl chassis::Settings for Settings {
    fn sections(&self) -> Sections<'_> {
        Sections {
            address_file: None,
            grpc: &self.grpc,
            probe: &self.probe,
            database: &self.database,
            auth: &self.auth,
            idempotency: &self.idempotency,
            audit: &self.audit,
            telemetry: &self.telemetry,
            drain: &self.drain,
        }
    }

    fn check(&self, violations: &mut Violations) {
        if !self.next.target.is_empty() {
            violations.within("next", |violations| self.next.check(violations));
        }
    }
}

impl chassis::Service for HopService {
    const NAME: &'static str = "hop";
    const ABOUT: &'static str = "Does what a test tells it to";
    type Settings = Settings;

    fn migrations() -> Vec<chassis::postgres::Migrations> {
        Vec::new()
    }

    async fn serve(settings: Settings, process: Process) -> anyhow::Result<()> {
        let control = Control::default();
        let listener = TcpListener::bind(settings.control).await.context("control")?;
        let (server, shutdown) = (control.clone(), process.shutdown.clone());
        process.tasks.spawn("control", async move {
            tokio::select! {
                () = server.serve(listener) => {}
                () = shutdown.cancelled() => {}
            }
            Ok(())
        });
        let next = match settings.next.target.as_str() {
            "" => None,
            _ => Some(OrderServiceClient::new(process.channel("hop", &settings.next)?)),
        };
        let server = chassis::Server::new(&process, &settings.grpc, &settings.auth);
        let name = http::HeaderValue::try_from(settings.grpc.listen.to_string())?;
        server.service(Handlers { name, control, next }).serve().await
    }
}

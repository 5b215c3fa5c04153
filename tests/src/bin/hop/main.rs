//! A service process for the mesh scenarios: real layers around handlers with behaviour set by a test.
//!
//! It serves the contract of the order service, so that it has methods with policies, and gRPC's interoperability
//! service ([`tests::interop`]).

mod control;
mod handlers;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use chassis::{Process, Sections, Upstream, Violations};
use control::Control;
use handlers::Handlers;
use proto::order::v1::order_service_client::OrderServiceClient;
use serde::{Deserialize, Serialize};
use tests::interop;
use tokio::net::TcpListener;
use tonic::codegen::http;

fn main() -> ExitCode {
    chassis::run::<HopService>()
}

struct HopService;

/// The sections of every service, and the control port.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    grpc: chassis::server::Settings,
    probe: chassis::health::Settings,
    /// Not used: the hop stores nothing. It therefore reports startup and liveness, but never readiness.
    database: chassis::postgres::Settings,
    auth: chassis::auth::Settings,
    idempotency: chassis::idempotency::Settings,
    audit: chassis::audit::Settings,
    telemetry: chassis::telemetry::Settings,
    drain: chassis::drain::Settings,
    /// Control port of the tests.
    control: SocketAddr,
    /// The next hop, to which calls are forwarded; none if the target is empty.
    next: Upstream,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            grpc: chassis::server::Settings::default(),
            probe: chassis::health::Settings::default(),
            database: chassis::postgres::Settings::for_service("hop"),
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
    const ABOUT: &'static str = "Serves calls with behaviour set by a test";
    type Settings = Settings;

    fn contract() -> &'static [u8] {
        interop::contract()
    }

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
        let server = server.service(Handlers { name, control, next });
        server.service(interop::server()).serve().await
    }
}

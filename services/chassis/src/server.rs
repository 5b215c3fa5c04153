//! The gRPC server of a service: the mesh's server with the contract, the callers, the audit trail and the database of
//! our services.

mod audit;
mod mesh_service;
mod stale_plan;

use std::convert::Infallible;

use http::Request;
use proto::ops::v1::mesh_service_server::MeshServiceServer;
use tonic::{body::Body, server::NamedService};
use tower::Service;
pub use weft_server::server::{NO_DECODING_LIMIT, Rate, RateLimits, Reflection, Settings, tls};
use weft_server::{Authenticator, server::Position};

use crate::{Process, auth, contract};

/// Builder of a server: mount services, then [`serve`](Server::serve).
#[derive(Debug)]
pub struct Server {
    process: Process,
    auth: auth::Settings,
    server: weft_server::Server,
}

impl Server {
    /// A server with `ops.v1.MeshService` only.
    pub fn new(process: &Process, settings: &Settings, auth: &auth::Settings) -> Server {
        let server = weft_server::Server::new(process.name)
            .with_lifecycle(process.lifecycle())
            .settings(settings.clone())
            .probe(process.settings.probe.clone())
            .drain(process.settings.drain.clone())
            .address_file(process.settings.address_file.clone())
            .with_contract(contract::contract().clone(), process.policies.clone())
            .require_policies();
        Server {
            process: process.clone(),
            auth: auth.clone(),
            server,
        }
        // Every process serves statistics of its own calls.
        .service(
            MeshServiceServer::new(mesh_service::Service(process.clone()))
                .max_decoding_message_size(NO_DECODING_LIMIT),
        )
    }

    /// Mounts a generated service.
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Server
    where
        S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.server = self.server.service(service);
        self
    }

    /// Serves until the process stops, then drains: reports NOT_SERVING, accepts calls for the announced time, and
    /// finishes accepted calls within the grace period. Binds both ports before it reports that it has started.
    ///
    /// # Errors
    /// When a port or the keys are unavailable, or a mounted method is not in the contract.
    pub async fn serve(self) -> anyhow::Result<()> {
        let verifier = auth::verifier(&self.auth, self.process.name)?;
        let verifier = verifier.start(&self.process.lifecycle()).await?;
        self.with_callers(verifier).serve().await
    }

    /// The server for the callers that `authenticator` establishes, each with an [`Identity`](crate::Identity).
    fn with_callers(self, authenticator: impl Authenticator + 'static) -> weft_server::Server {
        self.server
            .authenticate(authenticator)
            // Records the outcome of the call, including rejections below.
            .layer(Position::AfterAuthentication, audit::Layer::new(&self.process))
            // Repeats a valid call under the same permit.
            .layer(Position::BeforeHandlers, stale_plan::Layer)
    }
}

#[cfg(test)]
pub(crate) mod tests;

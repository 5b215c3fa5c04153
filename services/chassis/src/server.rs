//! The gRPC server: the layers in front of the handlers, and the life cycle of connections.

mod admission;
mod audit;
mod authentication;
mod authorization;
mod call;
mod cancellation;
mod connections;
mod deadline;
mod frames;
mod guarded_body;
mod idle_timeout;
mod listeners;
mod log_throttle;
mod mesh_service;
mod protocol;
mod rate_limit;
mod receive;
mod reflection;
mod rejected_calls;
mod response_size;
mod settings;
mod stale_plan;
mod stream_limits;
mod stream_timeout;
mod telemetry;
pub mod tls;
mod validation;

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use anyhow::Context as _;
use call::{Layer, Method, Stack};
pub(crate) use connections::{ConnectionLimit, detect};
use http::Request;
use proto::ops::v1::mesh_service_server::MeshServiceServer;
pub use rate_limit::{Rate, RateLimits};
pub use reflection::Access as Reflection;
pub use settings::Settings;
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

use crate::{
    Process, auth,
    auth::Verifier,
    contract,
    health::{HealthService, serve_probes},
};

/// Decoding limit for mounted services: none, because the server's layers already reject messages over
/// `grpc.max_message_bytes`.
pub const NO_DECODING_LIMIT: usize = usize::MAX;

/// Builder of a server: mount services, then [`serve`](Server::serve).
pub struct Server {
    process: Process,
    settings: Settings,
    auth: auth::Settings,
    routes: RoutesBuilder,
    mounted: Vec<&'static str>,
}

impl Server {
    /// A server with `ops.v1.MeshService` only.
    pub fn new(process: &Process, settings: &Settings, auth: &auth::Settings) -> Server {
        Server {
            process: process.clone(),
            settings: settings.clone(),
            auth: auth.clone(),
            routes: RoutesBuilder::default(),
            mounted: Vec::new(),
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
        S: Service<Request<Body>, Response = Response, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.mounted.push(S::NAME);
        self
    }

    /// Serves until the process stops, then drains: reports NOT_SERVING, accepts calls for the announced time, and
    /// finishes accepted calls within the grace period. Binds both ports before it reports that it has started.
    ///
    /// # Errors
    /// When a port or the keys are unavailable, or a mounted method is not in the contract.
    pub async fn serve(mut self) -> anyhow::Result<()> {
        let stack = self.stack().await?;
        // A bad certificate must fail the start.
        let acceptor = self
            .settings
            .tls
            .as_ref()
            .map(tls::Acceptor::load)
            .transpose()
            .context("grpc.tls")?;
        let listeners = listeners::bind(&self.settings, &self.process.settings).await?;
        self.process
            .health
            .mounted(self.mounted.iter().map(ToString::to_string));
        let probes = self
            .process
            .tasks
            .run(serve_probes(listeners.probe, self.probes()?));
        self.process.health.started();
        connections::serve(listeners.grpc, acceptor, stack, &self.settings, &self.process).await;
        probes.abort();
        Ok(())
    }

    /// The layers and the handlers behind them.
    async fn stack(&mut self) -> anyhow::Result<Arc<Stack>> {
        let methods = self.methods()?;
        let verifier = Verifier::start(&self.auth, &self.process).await?;
        let mut routes = std::mem::take(&mut self.routes);
        // Clients with their own load balancing watch health on this port (gRFC A17); probes use the probe port.
        routes.add_service(self.health());
        if self.settings.reflection != Reflection::Off {
            reflection::mount(&mut routes, &self.mounted)?;
        }
        Ok(Arc::new(Stack::new(
            self.layers(verifier),
            routes.routes().prepare(),
            methods,
        )))
    }

    /// The services of the probe port: health, and reflection so that health can be called without its contract.
    fn probes(&self) -> anyhow::Result<Routes> {
        let mut routes = RoutesBuilder::default();
        routes.add_service(self.health());
        // The probe port does not authenticate.
        if self.settings.reflection == Reflection::Open {
            reflection::mount(&mut routes, &[])?;
        }
        Ok(routes.routes().prepare())
    }

    fn health(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService(self.process.health.clone()))
    }

    /// Every request passes through these layers, from top to bottom.
    fn layers(&self, verifier: Verifier) -> Vec<Arc<dyn Layer>> {
        let Server {
            settings, process, ..
        } = self;
        vec![
            // Outermost: observes every response, including rejections, and continues the caller's trace.
            Arc::new(telemetry::Layer::new()),
            // Limits every response below to what the caller can read.
            Arc::new(response_size::Layer::new(settings.max_message_bytes)),
            // Requests that are not gRPC must not cost more.
            Arc::new(protocol::Layer::new(self.services())),
            // The time includes all waiting below.
            Arc::new(deadline::Layer::new(
                process.shutdown.clone(),
                settings.stream_grace(),
            )),
            // No further work for unauthenticated callers.
            Arc::new(authentication::Layer::new(verifier, settings.reflection)),
            // Before anything is allocated for the call; its errors are answered by the last layers, below the
            // audit trail.
            Arc::new(receive::Layer::new(settings, process.shutdown.clone())),
            // From here on the work continues when its caller is gone; only the deadline's response is immediate.
            Arc::new(cancellation::Layer::new(process.tasks.clone())),
            // Knows the caller, and records the outcome of the call, including rejections below.
            Arc::new(audit::Layer::new(process)),
            Arc::new(authorization::Layer::new(
                contract::services(),
                settings.tls.as_ref(),
            )),
            // Rejects a facility over its rate before it takes a permit.
            Arc::new(rate_limit::Layer::new(settings.rate_limits.clone())),
            // Streams hold a permit of their own until they end.
            Arc::new(stream_limits::Layer::new(settings)),
            // Only authorized calls take a permit, until the handler ends.
            Arc::new(admission::Layer::new(
                settings.min_in_flight,
                settings.max_in_flight,
            )),
            // The most expensive check comes last. Handlers get valid requests only.
            Arc::new(validation::Layer::new(settings.max_message_bytes)),
            // Repeats a valid call under the same permit.
            Arc::new(stale_plan::Layer),
        ]
    }

    /// The full names of all services that are served, including those that are not in the contract.
    fn services(&self) -> Vec<String> {
        let reflection = match self.settings.reflection {
            Reflection::Off => &[][..],
            Reflection::Open | Reflection::Token => &reflection::SERVICES,
        };
        let foreign = std::iter::once(&HealthServer::<HealthService>::NAME).chain(reflection);
        let all = self.mounted.iter().chain(foreign);
        all.map(|name| (*name).to_owned()).collect()
    }

    /// The methods of the mounted services, by path.
    fn methods(&self) -> anyhow::Result<HashMap<String, Arc<Method>>> {
        let mut methods = HashMap::new();
        for name in &self.mounted {
            let service = contract::pool().get_service_by_name(name);
            let service = service.with_context(|| format!("{name} is not in the contract"))?;
            for method in service.methods() {
                let path = format!("/{name}/{}", method.name());
                let policy = self
                    .process
                    .policies
                    .method(&path)
                    .with_context(|| format!("{path} has no policy"))?;
                methods.insert(path, Arc::new(Method::new(&method, policy.clone())));
            }
        }
        Ok(methods)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("mounted", &self.mounted)
            .finish_non_exhaustive()
    }
}

/// The response to a call.
type Response = http::Response<Body>;

/// The handlers behind the layers.
type Handlers = Routes;

#[cfg(test)]
pub(crate) mod tests;

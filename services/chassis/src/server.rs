//! The gRPC port: what a request passes through before its handler, and how connections begin and end.

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

/// The limit that a generated service is mounted with: none of its own, because the layers in front of it have refused
/// what is larger than `grpc.max_message_bytes`.
pub const NO_DECODING_LIMIT: usize = usize::MAX;

/// A server under construction: mount services on it, then [`serve`](Server::serve).
pub struct Server {
    process: Process,
    settings: Settings,
    auth: auth::Settings,
    routes: RoutesBuilder,
    mounted: Vec<&'static str>,
}

impl Server {
    /// A server without services but `ops.v1.MeshService`.
    pub fn new(process: &Process, settings: &Settings, auth: &auth::Settings) -> Server {
        Server {
            process: process.clone(),
            settings: settings.clone(),
            auth: auth.clone(),
            routes: RoutesBuilder::default(),
            mounted: Vec::new(),
        }
        // Every process tells how its calls fare.
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

    /// Serves until the process is to stop, then drains: says NOT_SERVING, goes on accepting for the announced time,
    /// and finishes what it took within the grace. Binds both ports before it says that it has started.
    ///
    /// # Errors
    /// When a port or the keys cannot be had, or a mounted method is not in the contract.
    pub async fn serve(mut self) -> anyhow::Result<()> {
        let stack = self.stack().await?;
        // A wrong certificate is told before anything is promised.
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
        // Clients that balance by themselves watch health here (gRFC A17); probes ask on a port of their own.
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

    /// What answers on the probe port: health, and so much reflection that it can be asked without its contract.
    fn probes(&self) -> anyhow::Result<Routes> {
        let mut routes = RoutesBuilder::default();
        routes.add_service(self.health());
        // Nothing on that port asks for a token.
        if self.settings.reflection == Reflection::Open {
            reflection::mount(&mut routes, &[])?;
        }
        Ok(routes.routes().prepare())
    }

    fn health(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService(self.process.health.clone()))
    }

    /// Every request passes through these layers, from the top down.
    fn layers(&self, verifier: Verifier) -> Vec<Arc<dyn Layer>> {
        let Server {
            settings, process, ..
        } = self;
        vec![
            // Outermost, so that every answer is seen, refusals too; it continues the caller's trace.
            Arc::new(telemetry::Layer::new()),
            // Whatever is answered below, the caller can read it.
            Arc::new(response_size::Layer::new(settings.max_message_bytes)),
            // What is no gRPC costs nothing more.
            Arc::new(protocol::Layer::new(self.services())),
            // Time counts from here, waiting included.
            Arc::new(deadline::Layer::new(
                process.shutdown.clone(),
                settings.stream_grace(),
            )),
            // Nothing is done for strangers.
            Arc::new(authentication::Layer::new(verifier, settings.reflection)),
            // Before anything is held for the call; what goes wrong is answered at the bottom, where it is recorded.
            Arc::new(receive::Layer::new(settings, process.shutdown.clone())),
            // From here on the work goes on when its caller is gone; only the deadline's answer does not wait.
            Arc::new(cancellation::Layer::new(process.tasks.clone())),
            // Knows the caller, and sees what became of the call: refusals below are recorded, too.
            Arc::new(audit::Layer::new(process)),
            Arc::new(authorization::Layer::new(
                contract::services(),
                settings.tls.as_ref(),
            )),
            // One facility's haste is refused before it takes a place.
            Arc::new(rate_limit::Layer::new(settings.rate_limits.clone())),
            // What stays open has a place of its own, until it ends.
            Arc::new(stream_limits::Layer::new(settings)),
            // Whoever may not call takes no place; a place is kept until the handler ends.
            Arc::new(admission::Layer::new(
                settings.min_in_flight,
                settings.max_in_flight,
            )),
            // The costliest check comes last. Handlers get valid requests only.
            Arc::new(validation::Layer::new(settings.max_message_bytes)),
            // Repeats what is valid and holds its place.
            Arc::new(stale_plan::Layer),
        ]
    }

    /// The full names of the services that are served, with those that are not in the contract.
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

/// The answer to a call.
type Response = http::Response<Body>;

/// What the layers stand in front of.
type Handlers = Routes;

#[cfg(test)]
pub(crate) mod tests;

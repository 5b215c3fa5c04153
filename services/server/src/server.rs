//! The gRPC server: the layers in front of the handlers, and the life cycle of connections.

mod admission;
mod authentication;
mod authorization;
mod built_in;
mod call;
mod cancellation;
mod connections;
mod deadline;
mod frames;
mod guarded_body;
mod idle_timeout;
mod layers;
mod listeners;
mod log_throttle;
mod methods;
mod protocol;
mod rate_limit;
mod receive;
mod reflection;
mod rejected_calls;
mod response_size;
mod settings;
mod stream_limits;
mod stream_timeout;
mod telemetry;
pub mod tls;
mod validation;

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use built_in::BUILT_IN;
pub use call::{Call, Layer, Next, Stack, refuse};
use connections::Port;
pub(crate) use connections::{ConnectionLimit, detect};
use http::Request;
use mesh::Policies;
pub use methods::Method;
use methods::Methods;
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
pub use validation::sanitize_request_id;

use crate::{
    Contract, Lifecycle, Violations,
    authenticator::Authenticator,
    drain, health,
    health::{HealthService, serve_probes},
};

/// Decoding limit for mounted services of the contract: none, because the server's layers already reject messages over
/// `grpc.max_message_bytes`. Services without a contract need tonic's own limit.
pub const NO_DECODING_LIMIT: usize = usize::MAX;

/// Where a layer of one's own stands among the server's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The caller is known, and the work continues when the caller is gone. Rejections by authorization, limits and
    /// validation pass through the layer.
    AfterAuthentication,
    /// Directly in front of the handlers: calls are allowed, complete and valid, and hold their permits.
    BeforeHandlers,
}

/// Builder of a server: mount services, then [`serve`](Server::serve).
pub struct Server {
    name: String,
    lifecycle: Lifecycle,
    /// Whether nobody else waits for the tasks of the lifecycle.
    owns_lifecycle: bool,
    settings: Settings,
    probe: health::Settings,
    drain: drain::Settings,
    address_file: Option<PathBuf>,
    contract: Option<Contract>,
    policies: Policies,
    requires_policies: bool,
    authenticator: Option<Arc<dyn Authenticator>>,
    own_layers: Vec<(Position, Arc<dyn Layer>)>,
    routes: RoutesBuilder,
    mounted: Vec<&'static str>,
}

impl Server {
    /// A server of the service `name`, without a contract, without authentication, and with the default settings.
    pub fn new(name: impl Into<String>) -> Server {
        Server {
            name: name.into(),
            lifecycle: Lifecycle::new(),
            owns_lifecycle: true,
            settings: Settings::default(),
            probe: health::Settings::default(),
            drain: drain::Settings::default(),
            address_file: None,
            contract: None,
            policies: Policies::default(),
            requires_policies: false,
            authenticator: None,
            own_layers: Vec::new(),
            routes: RoutesBuilder::default(),
            mounted: Vec::new(),
        }
    }

    /// Sets the contract: an encoded `FileDescriptorSet` with its imports and extension options. Messages are
    /// validated by their `buf.validate` rules, and methods served by their `mesh.v1.policy`. A service without any
    /// such policy gets defaults: no timeout but the caller's, normal criticality, and any person with a token may call.
    ///
    /// # Errors
    /// When it cannot be decoded, or has an invalid policy.
    pub fn contract(self, descriptors: &'static [u8]) -> anyhow::Result<Server> {
        let policies = Policies::from_descriptors(descriptors)?;
        Ok(self.with_contract(Contract::new(descriptors)?, policies))
    }

    /// Sets the contract and the policies of its methods.
    #[must_use]
    pub fn with_contract(mut self, contract: Contract, policies: Policies) -> Server {
        self.contract = Some(contract);
        self.policies = policies;
        self
    }

    /// Refuses to start with a mounted service that is not in the contract, or a method without a policy.
    #[must_use]
    pub fn require_policies(mut self) -> Server {
        self.requires_policies = true;
        self
    }

    /// Sets the gRPC port and its limits.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Server {
        self.settings = settings;
        self
    }

    /// Sets the probe port.
    #[must_use]
    pub fn probe(mut self, settings: health::Settings) -> Server {
        self.probe = settings;
        self
    }

    /// Sets the time limits of the shutdown.
    #[must_use]
    pub fn drain(mut self, settings: drain::Settings) -> Server {
        self.drain = settings;
        self
    }

    /// Writes the bound addresses to this file, as `{"grpc": "…", "probe": "…"}`, once the server listens.
    #[must_use]
    pub fn address_file(mut self, file: impl Into<Option<PathBuf>>) -> Server {
        self.address_file = file.into();
        self
    }

    /// Makes the server part of a process with other work, which waits for the tasks of `lifecycle` after the server has
    /// ended, and stops with their failure. A lifecycle is for one server: the first that has drained ends it.
    #[must_use]
    pub fn with_lifecycle(mut self, lifecycle: Lifecycle) -> Server {
        self.lifecycle = lifecycle;
        self.owns_lifecycle = false;
        self
    }

    /// When the server stops, its background tasks and its health.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Authenticates every call, except health checks, reflection unless `grpc.reflection` is `token`, and methods
    /// whose policy is anonymous. Calls are then authorized by their methods' policies. Without it every caller may
    /// call every method.
    #[must_use]
    pub fn authenticate(mut self, authenticator: impl Authenticator + 'static) -> Server {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Adds a layer. Layers at the same position handle a call in the order in which they are added.
    #[must_use]
    pub fn layer(mut self, position: Position, layer: impl Layer + 'static) -> Server {
        self.own_layers.push((position, Arc::new(layer)));
        self
    }

    /// Mounts a generated service. If the contract does not have it, or there is none, its calls are not validated,
    /// have the caller's timeout only, normal criticality and any person with a token, and may be streams: each
    /// holds a permit for a stream.
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Server
    where
        S: Service<Request<Body>, Response = Response, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        // A second service of the same name is reported at the start.
        if !self.mounted.contains(&S::NAME) && !BUILT_IN.contains(&S::NAME) {
            self.routes.add_service(service);
        }
        self.mounted.push(S::NAME);
        self
    }

    /// Serves until the process stops, then drains: reports NOT_SERVING, accepts calls for the announced time, and
    /// finishes accepted calls within the grace period. Binds both ports before it reports that it has started.
    ///
    /// # Errors
    /// When a setting is out of bounds, a service is mounted twice, the contract's rules or policies cannot be enforced,
    /// a port or the certificates are unavailable, or a background task has failed; with
    /// [`require_policies`](Server::require_policies) also when a mounted method has no policy.
    pub async fn serve(mut self) -> anyhow::Result<()> {
        let stack = self.stack()?;
        // A bad certificate must fail the start.
        let acceptor = self
            .settings
            .tls
            .as_ref()
            .map(tls::Acceptor::load)
            .transpose()
            .context("grpc.tls")?;
        let listeners = listeners::bind(
            self.settings.listen,
            self.probe.listen,
            self.address_file.as_deref(),
        )
        .await?;
        let Lifecycle { health, tasks, .. } = &self.lifecycle;
        health.mounted(self.mounted.iter().map(ToString::to_string));
        let probes = tasks.run(serve_probes(listeners.probe, self.probes()?));
        health.started();
        let port = Port {
            listener: listeners.grpc,
            acceptor,
        };
        connections::serve(port, stack, &self.settings, &self.drain, &self.lifecycle).await;
        probes.abort();
        if !self.owns_lifecycle {
            return Ok(());
        }
        // Handlers with effects run to their end although their callers are gone.
        let Lifecycle { tasks, .. } = &self.lifecycle;
        if !tasks.finished_within(self.drain.grace()).await {
            tracing::warn!(tasks.running = tasks.running(), "stopping with unfinished tasks");
        }
        match tasks.failure() {
            Some(failure) => Err(anyhow::anyhow!("{failure}")),
            None => Ok(()),
        }
    }

    /// The layers and the handlers as a tower service without ports. Health reports that the process has started once
    /// [`Health::started`](crate::Health::started) is called.
    ///
    /// # Errors
    /// As [`serve`](Server::serve), except for the ports.
    pub fn into_service(mut self) -> anyhow::Result<Stack> {
        anyhow::ensure!(
            self.settings.tls.is_none(),
            "grpc.tls has no effect without ports: the embedding server decides about TLS"
        );
        let mounted = self.mounted.iter().map(ToString::to_string);
        self.lifecycle.health.mounted(mounted);
        self.stack()
    }

    /// What would panic, or fail open, when it is served.
    fn check_mounted(&self) -> anyhow::Result<()> {
        for (place, name) in self.mounted.iter().enumerate() {
            anyhow::ensure!(
                !BUILT_IN.contains(name),
                "{name} is served by the server itself and must not be mounted"
            );
            anyhow::ensure!(!self.mounted[..place].contains(name), "{name} is mounted twice");
        }
        if let Some(contract) = &self.contract {
            anyhow::ensure!(
                cfg!(feature = "validation") || !contract.has_rules(),
                "the contract has `buf.validate` rules, which need the feature `validation` of weft-server"
            );
        }
        Ok(())
    }

    /// The layers and the handlers behind them.
    fn stack(&mut self) -> anyhow::Result<Stack> {
        let mut violations = Violations::new();
        violations.within("grpc", |violations| self.settings.check(violations));
        violations.within("drain", |violations| self.drain.check(violations));
        violations.into_result()?;
        self.check_mounted()?;
        anyhow::ensure!(
            self.authenticator.is_some() || self.settings.reflection != Reflection::Token,
            "grpc.reflection must not be `token`: the server does not authenticate callers"
        );
        let methods = Methods::new(
            self.contract.as_ref(),
            &self.policies,
            &self.mounted,
            self.requires_policies,
        )?;
        if self.authenticator.is_none()
            && let Some(name) = methods.restricted()
        {
            anyhow::bail!("{name} names roles or callers, and the server does not authenticate callers");
        }
        let mut routes = std::mem::take(&mut self.routes);
        // Clients with their own load balancing watch health on this port (gRFC A17); probes use the probe port.
        routes.add_service(self.health());
        if self.settings.reflection != Reflection::Off {
            reflection::mount(&mut routes, self.contract.as_ref(), &self.mounted)?;
        }
        Ok(Stack::new(self.layers(), routes.routes().prepare(), methods))
    }

    /// The services of the probe port: health, and reflection so that health can be called without its contract.
    fn probes(&self) -> anyhow::Result<Routes> {
        let mut routes = RoutesBuilder::default();
        routes.add_service(self.health());
        // The probe port does not authenticate.
        if self.settings.reflection == Reflection::Open {
            reflection::mount(&mut routes, self.contract.as_ref(), &[])?;
        }
        Ok(routes.routes().prepare())
    }

    fn health(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService(self.lifecycle.health.clone()))
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .field("mounted", &self.mounted)
            .finish_non_exhaustive()
    }
}

/// The response to a call.
pub type Response = http::Response<Body>;

/// The handlers behind the layers.
type Handlers = Routes;

#[cfg(test)]
mod tests;

//! The order of the layers.

use std::{collections::BTreeSet, sync::Arc};

use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;

use super::{
    Layer, Position, Reflection, Server, admission, authentication, authorization, cancellation, deadline,
    protocol, rate_limit, receive, reflection, response_size, stream_limits, telemetry, validation,
};
use crate::{Contract, health::HealthService};

impl Server {
    /// Every request passes through these layers, from top to bottom.
    pub(super) fn layers(&self) -> Vec<Arc<dyn Layer>> {
        let Server {
            settings,
            lifecycle,
            authenticator,
            ..
        } = self;
        let tenant_name = authenticator.as_ref().map_or("tenant", |by| by.tenant_name());
        let mut layers: Vec<Arc<dyn Layer>> = vec![
            // Outermost: observes every response, including rejections, and continues the caller's trace.
            Arc::new(telemetry::Layer::new()),
            // Limits every response below to what the caller can read.
            Arc::new(response_size::Layer::new(settings.max_message_bytes)),
            // Requests that are not gRPC must not cost more.
            Arc::new(protocol::Layer::new(self.services())),
            // The time includes all waiting below.
            Arc::new(deadline::Layer::new(
                lifecycle.shutdown.clone(),
                settings.stream_grace(),
            )),
            // No further work for unauthenticated callers.
            Arc::new(authentication::Layer::new(
                authenticator.clone(),
                settings.reflection,
            )),
            // Before anything is allocated for the call; its errors are answered by the last layers, below the
            // audit trail.
            Arc::new(receive::Layer::new(settings, lifecycle.shutdown.clone())),
            // From here on the work continues when its caller is gone; only the deadline's response is immediate.
            Arc::new(cancellation::Layer::new(lifecycle.tasks.clone())),
        ];
        // Know the caller, and see the outcome of the call, including rejections below.
        layers.extend(self.own_layers_at(Position::AfterAuthentication));
        if authenticator.is_some() {
            layers.push(Arc::new(authorization::Layer::new(
                self.known_services(),
                settings.tls.as_ref(),
            )));
        }
        layers.extend([
            // Rejects a tenant over its rate before it takes a permit.
            Arc::new(rate_limit::Layer::new(settings.rate_limits.clone(), tenant_name)) as Arc<dyn Layer>,
            // Streams hold a permit of their own until they end.
            Arc::new(stream_limits::Layer::new(settings, tenant_name)),
            // Only authorized calls take a permit, until the handler ends.
            Arc::new(admission::Layer::new(
                settings.min_in_flight,
                settings.max_in_flight,
            )),
            // The most expensive check comes last. Handlers get valid requests only.
            Arc::new(validation::Layer::new(
                self.contract.clone(),
                settings.max_message_bytes,
            )),
        ]);
        layers.extend(self.own_layers_at(Position::BeforeHandlers));
        layers
    }

    fn own_layers_at(&self, position: Position) -> impl Iterator<Item = Arc<dyn Layer>> {
        let at_position = self.own_layers.iter().filter(move |(at, _)| *at == position);
        at_position.map(|(_, layer)| Arc::clone(layer))
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

    /// The names of services whose processes may call, for their SPIFFE ids: the packages of the contract, what its
    /// policies name, and those with an id in the settings.
    fn known_services(&self) -> BTreeSet<String> {
        let mut known = self
            .contract
            .as_ref()
            .map(Contract::service_names)
            .unwrap_or_default();
        known.insert(self.name.clone());
        let callers = self.policies.iter().flat_map(|(_, policy)| &policy.callers);
        known.extend(callers.cloned());
        let configured = self.settings.tls.iter().flat_map(|tls| tls.service_ids.keys());
        known.extend(configured.cloned());
        known
    }
}

//! Routes: which group of endpoints a call goes to, by its method and headers and by weight.
//!
//! The first route that matches a call applies, as in gRFC A28 and in Envoy; a call that none matches may go
//! to every endpoint. The destination is determined once for each call, so that its retries and hedges stay
//! in the group.

mod header_match;
mod split;

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use serde::Deserialize;

use crate::discovery::labels::Labels;
pub(crate) use header_match::{Expected, HeaderMatch};
pub(crate) use split::{Group, Split};

/// Which calls go to which groups of endpoints.
#[derive(Debug)]
pub(crate) struct Route {
    /// `package.Service`; empty: every service.
    pub(crate) service: String,
    /// Empty: every method of the service.
    pub(crate) method: String,
    /// All of them must match.
    pub(crate) headers: Vec<HeaderMatch>,
    pub(crate) split: Split,
    pub(crate) fallback_policy: FallbackPolicy,
    /// Calls with the same value of this header go to the same group.
    pub(crate) sticky: Option<HeaderName>,
}

/// Where a call goes if no group of its route has a usable endpoint. The names are those of Envoy's subset
/// load balancing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum FallbackPolicy {
    /// To any endpoint.
    #[default]
    AnyEndpoint,
    /// It fails with UNAVAILABLE.
    NoFallback,
}

/// The routes of a channel, and their place in the service config.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    /// `loadBalancingConfig[0].weft_routes.routes`.
    pub(crate) path: String,
    pub(crate) routes: Vec<Arc<Route>>,
}

/// The routes that may match the calls of a method, in their order.
#[derive(Debug)]
pub(crate) struct MethodRoutes {
    candidates: Vec<Arc<Route>>,
    /// Whether this stands for several methods, so that each call's path must be compared.
    several_methods: bool,
}

/// Where a call and all its attempts go.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) route: Arc<Route>,
    /// Determines the group: evenly distributed over all values.
    pub(crate) point: u64,
}

impl Route {
    /// Whether it applies to the method, given suitable headers.
    pub(crate) fn covers(&self, service: &str, method: &str) -> bool {
        (self.service.is_empty() || self.service == service)
            && (self.method.is_empty() || self.method == method)
    }

    /// Whether it matches every call that `other` matches.
    pub(crate) fn hides(&self, other: &Route) -> bool {
        self.headers.is_empty() && self.covers(&other.service, &other.method)
    }
}

impl MethodRoutes {
    /// The routes for one method; `None` if there are none.
    pub(crate) fn for_method(routes: Option<&Routes>, service: &str, method: &str) -> Option<MethodRoutes> {
        let covering = routes?
            .routes
            .iter()
            .filter(|route| route.covers(service, method));
        let candidates: Vec<_> = covering.cloned().collect();
        (!candidates.is_empty()).then_some(MethodRoutes {
            candidates,
            several_methods: false,
        })
    }

    /// The routes for methods that are known only by the paths of their calls.
    pub(crate) fn for_any_method(routes: Option<&Routes>) -> Option<MethodRoutes> {
        Some(MethodRoutes {
            candidates: routes?.routes.clone(),
            several_methods: true,
        })
    }

    /// The destination of a call; `None`: every endpoint.
    pub(crate) fn destination(&self, path: &str, headers: &HeaderMap) -> Option<Destination> {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let route = self.candidates.iter().find(|route| {
            let covered = !self.several_methods || route.covers(service, method);
            covered && route.headers.iter().all(|header| header.matches(headers))
        })?;
        let sticky = route
            .sticky
            .as_ref()
            .and_then(|name| header_match::hash(headers, name));
        Some(Destination {
            route: Arc::clone(route),
            point: sticky.unwrap_or_else(rand::random),
        })
    }
}

impl Destination {
    /// The groups of the route in the order in which this call tries them.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.route.split.order(self.point)
    }

    /// The group to which an endpoint with these labels belongs, the first in this call's order; `None` for
    /// an endpoint outside the route's groups.
    pub(crate) fn group_of(&self, labels: &Labels) -> Option<&Group> {
        self.groups().find(|group| labels.include(&group.labels))
    }
}

#[cfg(test)]
mod tests;
